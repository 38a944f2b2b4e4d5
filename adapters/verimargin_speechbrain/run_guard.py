"""A run's checkpoints, checked before anything is resumed: that they are whole, and of a run with the same loss.

A recipe names our loss in the place of its own and nothing more, and the script calls it in training only, which a
folder with a finished run skips. So the first loss or `RandomState` of ours that is made wraps `Brain.__init__`, where
the recipe and the checkpointer come together.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import verimargin as vm
import yaml
from speechbrain.core import Brain
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from verimargin.files.run_record import NAME, differences, read_record, settings_of, write_record
from verimargin.files.whole import hold

from .statistics_logger import StatisticsLogger

logger = get_logger(__name__)

MARK = ".saved_completely"  # a file in a checkpoint
MARKED = "checkpoints_are_marked"  # in the record of a run


def watch_brains() -> None:
    """From now on, check the folder of each new Brain; a second call changes nothing."""
    if hasattr(Brain.__init__, "watched"):
        return
    original = Brain.__init__

    @functools.wraps(original)
    def __init__(self: Brain, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        check_schedule(self)
        log_statistics(self)
        run_on_main(prepare, [self])

    __init__.watched = True  # type: ignore[attr-defined]
    Brain.__init__ = __init__


def check_schedule(brain: Brain) -> None:
    """Refuse, by a ValueError, a schedule that nothing follows, or that a resumed run would begin anew."""
    schedule = getattr(_cost(brain), "schedule", None)
    entries = vars(brain.hparams).values() if hasattr(brain, "hparams") else []
    if any(isinstance(entry, vm.Schedule) and entry is not schedule for entry in entries):
        raise ValueError(
            "the recipe has a schedule that does not belong to its compute_cost, so that nothing would change: make it "
            "a `!new:verimargin_speechbrain.MarginSchedule` with `cost: !ref <compute_cost>`"
        )
    saved = brain.checkpointer.recoverables.values() if brain.checkpointer is not None else [schedule]
    if schedule is not None and not any(part is schedule for part in saved):
        raise ValueError(
            "the schedule is not among the checkpointer's recoverables, so that a resumed run would begin it anew: add "
            "`schedule: !ref <schedule>` to them"
        )


def log_statistics(brain: Brain) -> None:
    """Have the recipe's train_logger log the statistics of the loss too."""
    statistics, train_logger = getattr(_cost(brain), "statistics", None), _part(brain, "train_logger")
    if not isinstance(statistics, vm.TrainingStatistics) or train_logger is None:
        return
    if statistics.embedding_size is None and (weight := _prototypes(brain)) is not None:
        statistics.embedding_size = weight.shape[-1]
    brain.hparams.train_logger = StatisticsLogger(train_logger, statistics)


def _part(brain: Brain, name: str) -> Any:
    return getattr(getattr(brain, "hparams", None), name, None)


def _cost(brain: Brain) -> Any:
    return _part(brain, "compute_cost")


def _prototypes(brain: Brain) -> torch.Tensor | None:
    modules = brain.modules
    weight = getattr(modules["classifier"], "weight", None) if "classifier" in modules else None
    return weight if isinstance(weight, torch.Tensor) else None


def prepare(brain: Brain) -> None:
    """Set interrupted checkpoints aside, and record the settings of the run beside the others.

    A Brain without a loss or a recoverable of ours is left alone.

    Raises:
        ValueError: the loss has a state that no checkpoint would hold; the folder holds checkpoints of a run with
            another loss or other settings, for a loss of ours also of a run that recorded none; another process trains
            in it; or the newest checkpoint lacks one of the recipe's recoverables.
    """
    cost, checkpointer = _cost(brain), brain.checkpointer
    if checkpointer is None or not any(map(_is_ours, [cost, *checkpointer.recoverables.values()])):
        return
    _check_saves_state(cost, checkpointer)
    folder = Path(checkpointer.checkpoints_dir)
    hold(folder / NAME)
    settings, saved = _settings(cost, _prototypes(brain)), read_record(folder)
    set_interrupted_aside(folder, marked=saved is not None and MARKED in saved)
    if checkpointer.list_checkpoints():
        _check(folder, saved, settings, ours=_is_ours(cost))
        _check_recoverables(checkpointer)
    _mark_what_is_saved(checkpointer)
    if saved != settings:
        write_record(folder, settings)


def set_interrupted_aside(folder: Path, marked: bool) -> None:
    """Rename the checkpoints whose saving was interrupted: SpeechBrain would choose the newest, and fail.

    Args:
        marked: whether the run marks a checkpoint when all of it has been saved.
    """
    for checkpoint in sorted(folder.glob("CKPT*")):
        if not checkpoint.is_dir():
            continue
        if _is_whole(checkpoint) and (not marked or (checkpoint / MARK).is_file()):
            (checkpoint / MARK).touch()
            continue
        aside = checkpoint.with_name(f"interrupted+{checkpoint.name}")
        checkpoint.rename(aside)
        logger.warning(
            "%s was interrupted while it was saved: it is now %s, and may be removed", checkpoint, aside.name
        )


def _mark_what_is_saved(checkpointer: Checkpointer) -> None:
    """Have each checkpoint marked from now on, by an empty file in it, when all of it has been saved."""
    original = checkpointer.save_checkpoint
    if hasattr(original, "marks"):
        return

    @functools.wraps(original)
    def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
        checkpoint = original(*args, **kwargs)
        if checkpoint is not None:  # as it is in all processes but the first
            (checkpoint.path / MARK).touch()
        return checkpoint

    save_checkpoint.marks = True  # type: ignore[attr-defined]
    checkpointer.save_checkpoint = save_checkpoint


def _is_ours(part: Any) -> bool:
    return type(part).__module__.startswith("verimargin")


def _is_whole(checkpoint: Path) -> bool:
    """Whether what is in it is whole; something may be missing."""
    try:
        meta = yaml.safe_load((checkpoint / "CKPT.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return False
    if not isinstance(meta, dict) or not {"unixtime", "end-of-epoch"} <= set(meta):
        return False
    return not any(map(_is_cut, checkpoint.glob("*.ckpt")))


def _is_cut(file: Path) -> bool:
    """Whether a file is empty, or a zip archive, as torch writes it, without its end."""
    with file.open("rb") as opened:
        begins = opened.read(2)
    return not begins or (begins == b"PK" and not zipfile.is_zipfile(file))


def _settings(cost: Any, prototypes: torch.Tensor | None) -> dict[str, Any]:
    """What must not change within a run; of a loss that is not ours, only which one it is."""
    if not _is_ours(cost):
        found = {"loss": settings_of(cost)["loss"]} if isinstance(cost, torch.nn.Module) else {}
        return {**found, MARKED: True}
    return {
        **(cost.settings() if hasattr(cost, "settings") else settings_of(cost)),
        **(_classes_of(prototypes) if prototypes is not None else {}),
        MARKED: True,
    }


def _classes_of(prototypes: torch.Tensor) -> dict[str, int]:
    return {"out_neurons": len(prototypes), "subcenters": prototypes.shape[1] if prototypes.dim() == 3 else 1}


def _check(folder: Path, saved: Mapping[str, Any] | None, settings: Mapping[str, Any], ours: bool) -> None:
    own = "give this run an --output_folder of its own"
    if saved is None and ours:
        raise ValueError(
            f"{folder} holds the checkpoint of a run that did not record its loss in {NAME}, such as one with "
            f"SpeechBrain's own loss, and this run would go on from it: {own}, or, if that run had this loss, write "
            f"{{}} to {folder / NAME}"
        )
    if saved is not None and (found := differences(saved, settings)):
        raise ValueError(f"{folder} holds the checkpoint of a run with another loss or other settings ({found}): {own}")


def _check_saves_state(cost: Any, checkpointer: Checkpointer) -> None:
    """Refuse a cost with running averages that no checkpoint would hold."""
    parts = cost.modules() if isinstance(cost, torch.nn.Module) else ()
    if any(isinstance(part, vm.Quality) for part in parts) and not any(
        part is cost for part in checkpointer.recoverables.values()
    ):
        raise ValueError(
            "compute_cost keeps running averages of the embeddings' norms: list `compute_cost: !ref <compute_cost>` "
            "under modules and under the checkpointer's recoverables, so that they move to the device and are saved"
        )


def _check_recoverables(checkpointer: Checkpointer) -> None:
    """Name what the newest checkpoint lacks, where SpeechBrain would raise a KeyError; let `RandomState` begin anew."""
    newest, optional = checkpointer.find_checkpoint(), checkpointer.optional_recoverables
    for name, part in checkpointer.recoverables.items():
        if name in newest.paramfiles or "dataloader" in name or optional.get(name) or checkpointer.allow_partial_load:
            continue
        if getattr(part, "may_begin_anew", False):
            optional[name] = True
            continue
        raise ValueError(
            f"{newest.path} has no {name}.ckpt, which is among the recipe's recoverables: it belongs to another "
            "recipe; resume with that one, or give this run an --output_folder of its own"
        )
