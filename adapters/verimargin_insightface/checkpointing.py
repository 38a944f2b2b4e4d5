"""How a running train_v2.py saves and resumes: on any number of ranks, and whichever process is killed while it saves.

The script calls `torch.save` and `torch.load` with the file of its rank. `register` gives it a `torch` of its own, in
which these two know that file; all other names, and other files, are torch's.
"""

from __future__ import annotations

import logging
import os
import secrets
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from . import rank_files
from .output_folder import running_config
from .resharding import OPTIMIZER, ShardedCheckpoint

logger = logging.getLogger(__name__)

SCHEDULE = "state_lr_scheduler"


class ScriptTorch(types.ModuleType):
    """`torch` for train_v2.py. The config has its settings, `num_classes` among them."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__("torch")
        self.config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def save(self, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if _is_rank_file(f):
            save(obj, Path(f))
        else:
            torch.save(obj, f, *args, **kwargs)

    def load(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        return load(Path(f), self.config) if _is_rank_file(f) else torch.load(f, *args, **kwargs)


def save(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Save this rank's checkpoint; all ranks have to. It is marked, so that files of two saves are never mixed."""
    mark = [secrets.token_hex(8)]
    dist.broadcast_object_list(mark)
    rank_files.save_whole(torch.save, {**checkpoint, rank_files.METADATA: mark[0]}, path)
    dist.barrier()
    rank_files.remove_others(path.parent, dist.get_rank(), dist.get_world_size())


def load(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """This rank's part of the newest whole checkpoint in the file's folder; all ranks have to call this.

    Nothing but names is changed in the folder, and only after a kill between the renames of the ranks.

    Raises:
        ValueError: there is no whole checkpoint, or, on another number of ranks, one of another number of classes.
    """
    folder, rank, ranks = path.parent, dist.get_rank(), dist.get_world_size()
    found: list[Any] = [None] * ranks
    dist.all_gather_object(found, rank_files.find(folder, rank, ranks))
    files, faults = ([entry for part in found for entry in part[n]] for n in (0, 1))
    chosen = rank_files.newest(folder, files, faults, config["num_classes"])
    rank_files.finish(chosen, rank, ranks)
    dist.barrier()
    if len(chosen) == ranks:
        checkpoint = torch.load(path)
    else:
        whole_run = ShardedCheckpoint([rank_files.named(file) for file in chosen])
        if whole_run.classes != config["num_classes"]:
            raise ValueError(
                f"the checkpoint in {folder} has {whole_run.classes} classes, config.num_classes is "
                f"{config['num_classes']}: resume with the data that the run began with, or start afresh"
            )
        logger.info("the checkpoint in %s is of %d ranks, and is resumed on %d", folder, len(chosen), ranks)
        checkpoint = whole_run.for_rank(rank, ranks)
    return _on_the_schedule(checkpoint, config, ranks)


def _on_the_schedule(checkpoint: dict[str, Any], config: Mapping[str, Any], ranks: int) -> dict[str, Any]:
    """The checkpoint, with the learning rate's schedule at the same epoch of the steps that the config now has.

    The schedule counts steps, and there are more of them on fewer ranks with the same batch size: by the old count the
    learning rate would reach 0 in the middle of the training.
    """
    names = ("num_image", "batch_size", "num_epoch", "warmup_epoch")
    image, batch, epochs, warmup = (running_config(config).get(name) for name in names)
    schedule = checkpoint.get(SCHEDULE, {})
    if None in (image, batch, epochs, warmup) or "total_iters" not in schedule:
        return checkpoint
    steps = image // (batch * ranks)
    if schedule["total_iters"] == steps * epochs:
        return checkpoint
    if dist.get_rank() == 0:
        logger.warning(
            "config.num_image, batch_size, num_epoch and %d ranks make %d steps, those of the checkpoint made %d: the "
            "learning rate goes on from epoch %d of the new ones",
            *(ranks, steps * epochs, schedule["total_iters"], checkpoint["epoch"]),
        )
    moved = {"total_iters": steps * epochs, "warmup_iters": steps * warmup, "last_epoch": steps * checkpoint["epoch"]}
    moved["_last_lr"] = _learning_rates(**{**schedule, **moved})
    optimizer = checkpoint[OPTIMIZER]  # each step of the schedule multiplies the learning rate that it finds here
    groups = [{**group, "lr": lr} for group, lr in zip(optimizer["param_groups"], moved["_last_lr"])]
    return {**checkpoint, SCHEDULE: {**schedule, **moved}, OPTIMIZER: {**optimizer, "param_groups": groups}}


def _learning_rates(
    base_lrs: list[float], last_epoch: int, warmup_iters: int, total_iters: int, power: float, **_: Any
) -> list[float]:
    """The learning rates after `last_epoch` steps: a linear rise, then a polynomial fall to 0."""
    if last_epoch <= warmup_iters:
        share = last_epoch / warmup_iters if warmup_iters else 1.0
    else:
        share = (1.0 - (min(total_iters, last_epoch) - warmup_iters) / (total_iters - warmup_iters)) ** power
    return [lr * share for lr in base_lrs]


def _is_rank_file(f: Any) -> bool:
    return isinstance(f, str | os.PathLike) and Path(f).name == f"checkpoint_gpu_{dist.get_rank()}.pt"
