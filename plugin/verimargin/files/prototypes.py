"""The prototypes in checkpoints of either toolkit's classifier, of one rank or of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .reading import read_tensors

PRUNED = "prototypes.pt"  # what `verimargin prune` writes
RANK_FILE = re.compile(r"checkpoint_gpu_(\d+)\.pt$")


def read_prototypes(checkpoints: Sequence[str | Path]) -> Tensor:
    """The prototypes (C, d) of all classes in float32, or (C, K, d) of a head with sub-centres.

    Args:
        checkpoints: files written by `torch.save`, SpeechBrain's `classifier.ckpt` or `checkpoint_gpu_<rank>.pt` of
            Partial FC or of our head; for a sharded head those of all ranks (in rank order, unless their names tell
            the rank), or their folder.

    Raises:
        ValueError: the file of a rank is missing, or a file holds no prototypes.
    """
    files = in_rank_order(checkpoints)
    weights, layouts = zip(*map(_prototypes, files))
    for n, (file, layout) in enumerate(zip(files, layouts)):
        if (layout.get("rank", n), layout.get("ranks", len(files))) != (n, len(files)):
            raise ValueError(
                f"{file} is of rank {layout['rank']} of {layout['ranks']}, and is file {n} of {len(files)}: give the "
                "files of all ranks, in rank order"
            )
    sizes = [len(weight) for weight in weights]
    if (
        len({weight.shape[1:] for weight in weights}) > 1
        or sorted(sizes, reverse=True) != sizes
        or sizes[0] > sizes[-1] + 1
    ):
        listed = ", ".join(f"{tuple(weight.shape)} in {file}" for weight, file in zip(weights, files))
        raise ValueError(
            f"the prototypes are not the parts of one head: {listed}; give the files of all ranks, in rank order"
        )
    return torch.cat(weights)


def in_rank_order(checkpoints: Sequence[str | Path]) -> list[Path]:
    """The files of all ranks, from a folder or a list."""
    files = [Path(file) for file in checkpoints]
    if len(files) == 1 and files[0].is_dir():
        (folder,) = files
        files = [file for file in folder.iterdir() if RANK_FILE.search(file.name)]
        if not files:
            raise ValueError(
                f"{folder} has no checkpoint_gpu_<rank>.pt, which train_v2.py writes with config.save_all_states = "
                "True: give that folder, or the file that holds the prototypes, such as SpeechBrain's classifier.ckpt"
            )
    if not files:
        raise ValueError("no checkpoints are given: give one file, or the file of each rank")
    for n, file in enumerate(files):
        if same := [other for other in files[:n] if other.name == file.name]:
            raise ValueError(f"{same[0]} and {file} are of two checkpoints, or one twice: give the files of one")
    found = {int(match[1]): file for file in files if (match := RANK_FILE.search(file.name))}
    if len(found) < len(files):
        return files  # the names do not tell the ranks: the given order counts
    if missing := [rank for rank in range(max(found)) if rank not in found]:
        raise ValueError(
            f"checkpoint_gpu_{missing[0]}.pt is missing, and with it the classes of that rank: give the files of all "
            "ranks"
        )
    beside = found[max(found)].with_name(f"checkpoint_gpu_{max(found) + 1}.pt")
    if beside.is_file():
        raise ValueError(
            f"{beside} is not among the files, and with it the classes of that rank: give those of all ranks"
        )
    return [found[rank] for rank in sorted(found)]


def _prototypes(path: Path) -> tuple[Tensor, dict]:
    """The prototypes of a checkpoint in float32 and, if our head wrote it, its rank and the number of ranks."""
    try:
        state = read_tensors(path, "a state dict saved by torch.save")
    except FileNotFoundError:
        raise ValueError(f"the checkpoint {path} does not exist: give a file of the classifier's state dict") from None
    state = state.get("state_dict_softmax_fc", state) if isinstance(state, dict) else {"weight": state}
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no state dict of a head: give the classifier's own checkpoint")
    matrices = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.dim() in (2, 3) and value.is_floating_point()
    }
    alone = len([value for value in state.values() if isinstance(value, Tensor)]) == 1
    named = [name for name in matrices if name in ("weight", "module.weight")] or (list(matrices) if alone else [])
    if len(named) != 1:
        raise ValueError(
            f"{path} holds the matrices {sorted(matrices) or 'none'} and no head's: give the classifier's own "
            "checkpoint, with its prototypes (classes, embedding size) as `weight`"
        )
    return matrices[named[0]].float(), _layout(getattr(state, "_metadata", {}))


def _layout(found: Any) -> dict:
    for key in ("", "verimargin", "layout"):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}
