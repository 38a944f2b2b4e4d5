"""The output folder of a run, checked before it trains: whose results are in it, and what can be resumed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import verimargin as vm
from verimargin.files.run_record import NAME, differences, read_record, settings_of, write_record
from verimargin.files.whole import hold

from . import rank_files

logger = logging.getLogger(__name__)

STORAGE = ("memory_device", "memory_dtype")  # of config.kappa: where its memory is kept may change


def prepare(config: Any, loss: vm.MarginLoss) -> None:
    """Check the folder on the first rank, and record the run's settings there; every rank raises what that finds.

    With config.resume and no checkpoint in the folder, as after a kill in the first epoch, the run starts anew.

    Raises:
        ValueError: the folder holds the run of another loss or of other settings, or another process trains in it.
    """
    config = running_config(config)
    if not config.get("output"):
        return
    folder = Path(config.output)
    config.resume = _of_first_rank(lambda: _check(folder, run_settings(config, loss), bool(config.get("resume"))))


def running_config(config: Any) -> Any:
    """The settings that train_v2.py uses: those of configs/base.py, which it has updated with the config file's."""
    base = sys.modules.get("configs.base")
    return config if base is None else base.__dict__.get("config", config)


def run_settings(config: Any, loss: vm.MarginLoss) -> dict[str, Any]:
    """What must not change within a run: the loss, the settings of KappaFace and of the schedule, the classes and how
    many sub-centres they have.
    """
    kappa, schedule = config.get("kappa"), config.get("schedule")
    return {
        **settings_of(loss),
        **{f"config.kappa.{name}": value for name, value in (kappa or {}).items() if name not in STORAGE},
        "config.kappa": kappa is not None,
        **{f"config.schedule.{name}": str(value) for name, value in (schedule or {}).items()},
        "config.schedule": schedule is not None,
        "config.num_classes": config.num_classes,
        "config.subcenters": config.get("subcenters", 1),
    }


def _check(folder: Path, settings: Mapping[str, Any], resume: bool) -> bool:
    """Whether there is something to resume, if the run is to be resumed."""
    results = [*rank_files.saved(folder), *folder.glob("model.pt")]
    saved = read_record(folder)
    if results and saved is not None and (found := differences(saved, settings)):
        raise ValueError(
            f"{folder} holds the run of another loss or of other settings ({found}): set config.output to a folder of "
            "its own"
        )
    if results and saved is None:
        logger.warning(
            "%s holds %s of a run that did not record its loss: it is %s; set config.output to a folder of its own to "
            "keep the two apart",
            folder,
            results[0].name,
            "continued with this loss" if resume else "overwritten after the first epoch",
        )
    if resume and not rank_files.resumable(folder):
        logger.warning("%s has no checkpoint to resume from: the training starts from its beginning", folder)
        resume = False
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder / NAME)
    if saved != settings:
        write_record(folder, settings)
    return resume


def _of_first_rank(check: Callable[[], bool]) -> bool:
    """The result of a check on rank 0, on each rank; its error is raised on each of them too."""
    if not dist.is_initialized():
        return check()
    result: list[bool | str] = [False]
    if dist.get_rank() == 0:
        try:
            result[0] = check()
        except (ValueError, OSError) as error:
            result[0] = str(error)
    dist.broadcast_object_list(result)
    if isinstance(result[0], str):
        raise ValueError(result[0])
    return result[0]
