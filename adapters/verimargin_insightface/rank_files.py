"""The checkpoints of train_v2.py, one file per rank: written whole, and never of two epochs.

Upstream overwrites its only checkpoint in place, each rank its own file. A kill would leave a file that is cut short,
or the files of two epochs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from verimargin.files.anchors import RANK_FILE

PARTIAL = ".partial"  # one name for each file, so that the next save overwrites what a kill has left


def save_whole(save: Callable, obj: Any, path: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
    """`torch.save` to a file that replaces the old one when it is complete.

    The files of all ranks are complete before the first of them is renamed, so that `settle` can rename the others.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            save(obj, file, *args, **kwargs)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if RANK_FILE.search(path.name) and dist.is_initialized():
        dist.barrier()
    os.replace(partial, path)


def rank_files(folder: str | Path, ending: str = "") -> dict[int, Path]:
    """The checkpoint of each rank in a folder; with an `ending`, files whose names have that one more."""
    found = {}
    for path in Path(folder).glob(f"checkpoint_gpu_*.pt{ending}"):
        if match := RANK_FILE.search(path.name.removesuffix(ending)):
            found[int(match[1])] = path
    return found


def settle(folder: str | Path) -> None:
    """Finish a save that was interrupted while the ranks renamed their files, so that all are of the newest epoch.

    Raises:
        ValueError: a checkpoint is cut short, or they are of different epochs, as a script without the launcher may
            leave them.
    """
    steps = {rank: _step(path) for rank, path in rank_files(folder).items()}
    for rank, step in sorted(steps.items()):
        if step is None:
            raise ValueError(
                f"{folder}/checkpoint_gpu_{rank}.pt is cut short or damaged, so there is nothing to resume from: start "
                "anew with config.resume = False, or put back a copy of the checkpoints of all ranks"
            )
    newest = max((step for step in steps.values() if step is not None), default=None)
    for rank, partial in rank_files(folder, PARTIAL).items():
        if steps.get(rank) != newest and _step(partial) == newest:
            os.replace(partial, partial.with_name(partial.name.removesuffix(PARTIAL)))
            steps[rank] = newest
    if len(set(steps.values())) > 1:
        listed = ", ".join(f"rank {rank} after step {step}" for rank, step in sorted(steps.items()))
        raise ValueError(
            f"the checkpoints in {folder} are of different epochs ({listed}), because a save was interrupted: start "
            "anew with config.resume = False, or put back a copy of the checkpoints of all ranks"
        )


def _step(path: Path) -> int | None:
    """The training step that a checkpoint was saved after, without reading its tensors; None if it is not whole."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # of pickle, zipfile or torch
        return None
