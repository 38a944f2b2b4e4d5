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
import yaml
from speechbrain.core import Brain
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from verimargin.files.run_record import NAME, differences, read_record, settings_of, write_record

logger = get_logger(__name__)


def watch_brains() -> None:
    """From now on, check the folder of each new Brain; a second call changes nothing."""
    if hasattr(Brain.__init__, "watched"):
        return
    original = Brain.__init__

    @functools.wraps(original)
    def __init__(self: Brain, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        run_on_main(prepare, [self])

    __init__.watched = True  # type: ignore[attr-defined]
    Brain.__init__ = __init__


def prepare(brain: Brain) -> None:
    """Set interrupted checkpoints aside, and record the settings of the run beside the others.

    Raises:
        ValueError: the folder holds checkpoints of a run with another loss or other settings, for a loss of ours also
            of a run that recorded none, or the newest lacks one of the recipe's recoverables.
    """
    cost = getattr(getattr(brain, "hparams", None), "compute_cost", None)
    if brain.checkpointer is None or not isinstance(cost, torch.nn.Module):
        return
    folder = brain.checkpointer.checkpoints_dir
    set_interrupted_aside(brain.checkpointer, "optimizer" if brain.opt_class else None)
    settings, saved = _settings(cost, brain.modules), read_record(folder)
    if brain.checkpointer.list_checkpoints():
        _check(folder, saved, settings, ours=hasattr(cost, "settings"))
        _check_recoverables(brain.checkpointer)
    if saved != settings:
        write_record(folder, settings)


def set_interrupted_aside(checkpointer: Checkpointer, last: str | None) -> None:
    """Rename the checkpoints whose saving was interrupted: SpeechBrain would choose the newest, and fail.

    Args:
        last: the recoverable that is saved last. One that is missing elsewhere is left for SpeechBrain to name, because
            the recipe may have got it later.
    """
    for folder in sorted(Path(checkpointer.checkpoints_dir).glob("CKPT*")):
        if folder.is_dir() and not _is_whole(folder, last):
            aside = folder.with_name(f"interrupted+{folder.name}")
            folder.rename(aside)
            logger.warning(
                "%s was interrupted while it was saved: it is now %s, and may be removed", folder, aside.name
            )


def _is_whole(checkpoint: Path, last: str | None) -> bool:
    try:
        meta = yaml.safe_load((checkpoint / "CKPT.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return False
    if not isinstance(meta, dict) or not {"unixtime", "end-of-epoch"} <= set(meta):
        return False
    files = list(checkpoint.glob("*.ckpt"))
    return (last is None or last in [file.stem for file in files]) and not any(map(_is_cut, files))


def _is_cut(file: Path) -> bool:
    """Whether a file is empty, or a zip archive, as torch writes it, without its end."""
    with file.open("rb") as opened:
        begins = opened.read(2)
    return not begins or (begins == b"PK" and not zipfile.is_zipfile(file))


def _settings(cost: torch.nn.Module, modules: Mapping[str, Any]) -> dict[str, Any]:
    ours = getattr(cost, "settings", None)
    settings = ours() if callable(ours) else settings_of(cost)
    weight = getattr(modules["classifier"], "weight", None) if "classifier" in modules else None
    return {**settings, **({"out_neurons": len(weight)} if isinstance(weight, torch.Tensor) else {})}


def _check(folder: Path, saved: Mapping[str, Any] | None, settings: Mapping[str, Any], ours: bool) -> None:
    own = "give this run an --output_folder of its own"
    if saved is None and ours:
        raise ValueError(
            f"{folder} holds the checkpoint of a run that did not record its loss in {NAME}, such as one with "
            f"SpeechBrain's own loss, and this run would go on from it: {own}"
        )
    if saved is not None and (found := differences(saved, settings)):
        raise ValueError(f"{folder} holds the checkpoint of a run with another loss or other settings ({found}): {own}")


def _check_recoverables(checkpointer: Checkpointer) -> None:
    """Name what the newest checkpoint lacks, where SpeechBrain would raise a KeyError."""
    newest, optional = checkpointer.find_checkpoint(), checkpointer.optional_recoverables
    wanted = [name for name in checkpointer.recoverables if "dataloader" not in name and not optional.get(name)]
    missing = [name for name in wanted if name not in newest.paramfiles]
    if missing and not checkpointer.allow_partial_load:
        raise ValueError(
            f"{newest.path} has no {missing[0]}.ckpt, which is among the recipe's recoverables: it belongs to another "
            "recipe; resume with that one, or give this run an --output_folder of its own"
        )
