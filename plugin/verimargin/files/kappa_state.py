"""Reads kappa and psi of each class from a KappaFace checkpoint of either toolkit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .reading import read_tensors

PER_CLASS = ("class_counts", "kappa", "psi")


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
    found = list(_trackers(read_tensors(checkpoint, "a checkpoint")))
    if len(found) != 1:
        raise ValueError(
            f"{checkpoint} holds {len(found)} KappaFace states: give SpeechBrain's kappa.ckpt, or a checkpoint of "
            "arcface_torch trained with config.kappa"
        )
    state, saved_names = found[0]
    if state["epoch"].numel() != 1 or {state[key].shape for key in PER_CLASS} != {(len(state["psi"].reshape(-1)),)}:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
        raise ValueError(
            f"{checkpoint} has a damaged KappaFace state: {shapes}; psi and kappa have one number per class"
        )
    if not int(state["epoch"]):
        raise ValueError(f"{checkpoint} was saved before the first epoch ended: there is no kappa yet")
    names = names or saved_names or [str(i) for i in range(len(state["psi"]))]
    if len(names) != len(state["psi"]):
        raise ValueError(
            f"there are {len(names)} names, but {checkpoint} has {len(state['psi'])} classes: give one name per class"
        )
    values = (state[key].tolist() for key in PER_CLASS)
    return [ClassKappa(*row) for row in zip(range(len(names)), names, *values)]


def _trackers(content: Any) -> Iterator[tuple[dict[str, Tensor], list[str] | None]]:
    """The state of each KappaTracker in nested state dicts, with the class names if they are stored next to it."""
    left: list[tuple[Any, list[str] | None]] = [(content, None)]
    seen = set()  # a damaged file may hold a dictionary that holds itself
    while left:
        mapping, names = left.pop()
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        stored = [value.get("class_names") for value in mapping.values() if isinstance(value, Mapping)]
        names = next((list(map(str, value)) for value in stored if isinstance(value, (list, tuple))), names)
        for key in mapping:
            prefix = str(key).removesuffix("class_counts")
            values = {name: mapping.get(prefix + name) for name in ("epoch", *PER_CLASS)}
            state = {name: value for name, value in values.items() if isinstance(value, Tensor)}
            if prefix != str(key) and state.keys() == values.keys():
                yield state, names
        left.extend((value, names) for value in mapping.values())
