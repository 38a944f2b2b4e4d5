"""Reads kappa and psi of each class from a KappaFace checkpoint of either toolkit."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch


class ClassKappa(NamedTuple):
    """A line of the table: one class. The margin of a class is psi times the loss's m."""

    class_id: int
    name: str
    samples: int
    kappa: float
    psi: float


def read_kappa(checkpoint: Path, names: list[str] | None = None) -> list[ClassKappa]:
    """The classes of a checkpoint that holds the state of a `KappaTracker`, at any depth.

    Raises:
        ValueError: the file is not a checkpoint, it holds no tracker or several, no epoch had ended when it was saved,
            or the number of names is not that of the classes.
    """
    if checkpoint.is_dir():
        files = [checkpoint / name for name in ("kappa.ckpt", "checkpoint_gpu_0.pt") if (checkpoint / name).is_file()]
        if not files:
            raise ValueError(f"{checkpoint} has no kappa.ckpt and no checkpoint_gpu_0.pt: give the file itself")
        checkpoint = files[0]
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{checkpoint} is not a checkpoint that torch.load opens safely: {error}") from None
    found = list(_trackers(content, None))
    if len(found) != 1:
        raise ValueError(
            f"{checkpoint} holds {len(found)} KappaFace states: give SpeechBrain's kappa.ckpt, or a checkpoint of "
            "arcface_torch trained with config.kappa"
        )
    state, saved_names = found[0]
    if not int(state["epoch"]):
        raise ValueError(f"{checkpoint} was saved before the first epoch ended: there is no kappa yet")
    names = names or saved_names or [str(i) for i in range(len(state["psi"]))]
    if len(names) != len(state["psi"]):
        raise ValueError(
            f"there are {len(names)} names, but {checkpoint} has {len(state['psi'])} classes: give one name per class"
        )
    values = (state[key].tolist() for key in ("class_counts", "kappa", "psi"))
    return [ClassKappa(*row) for row in zip(range(len(names)), names, *values)]


def _trackers(content: Any, names: list[str] | None) -> Iterator[tuple[dict[str, torch.Tensor], list[str] | None]]:
    """The state of each KappaTracker in nested state dicts, with the class names if they are stored next to it."""
    if not isinstance(content, Mapping):
        return
    names = next(
        (value["class_names"] for value in content.values() if isinstance(value, Mapping) and "class_names" in value),
        names,
    )
    keys = ("psi", "kappa", "epoch", "class_counts")
    for key in content:
        prefix = str(key).removesuffix("class_counts")
        if prefix != str(key) and all(prefix + name in content for name in keys):
            yield {name: content[prefix + name] for name in keys}, names
    for value in content.values():
        yield from _trackers(value, names)
