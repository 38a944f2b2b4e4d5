"""A checkpoint of train_v2.py for another number of ranks: the prototypes, what the optimiser knows of them, KappaFace.

Prototypes and the sums or vectors of KappaFace are cut anew, bit for bit. Everything else is the same on all ranks but
for BatchNorm's running statistics and the random generators, and a new rank takes it from the old one of its number,
counted round.
"""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from verimargin._sharding import part_of, rows_of
from verimargin.kappa.tracker import ESTIMATOR_STATE

from .rank_files import HEAD, METADATA, open_checkpoint

OPTIMIZER = "state_optimizer"
TRACKER = "kappa.tracker."
# The tensors of the head that are split; an older checkpoint has those of KappaFace without "estimator".
SHARDED = ("weight", *(f"{TRACKER}{part}{name}" for name in ESTIMATOR_STATE for part in ("estimator.", "")))


class ShardedCheckpoint:
    """The checkpoint of all ranks of a run, opened without reading its tensors.

    Args:
        files: of all ranks, in rank order: `rank_files.newest` finds them.

    Raises:
        ValueError: a file cannot be read, or they differ in what they hold.
    """

    def __init__(self, files: Sequence[str | Path]):
        self.files = [str(file) for file in files]
        self.parts = [open_checkpoint(file) for file in self.files]
        self.classes = sum(len(part[HEAD]["weight"]) for part in self.parts)
        for file, part in zip(self.files, self.parts):
            if (shapes := _shapes(part)) != _shapes(self.parts[0]):
                raise ValueError(
                    f"{file} has {_described(shapes)}, and {self.files[0]} {_described(_shapes(self.parts[0]))}: give "
                    "the files of one run"
                )

    def check_ranks(self, ranks: int) -> None:
        """Refuse, by a ValueError, more ranks than there are classes."""
        if ranks > self.classes:
            raise ValueError(f"{self.classes} classes cannot be split over {ranks} ranks: give 1 to {self.classes}")

    def size_on(self, ranks: int) -> int:
        """About how many bytes the files of so many ranks take together."""
        split = [sum(tensor.nbytes for tensor in _split_tensors(part)) for part in self.parts]
        rest = max(os.path.getsize(file) - size for file, size in zip(self.files, split))
        return sum(split) + ranks * rest

    def for_rank(self, rank: int, ranks: int) -> dict[str, Any]:
        """The checkpoint of one of `ranks` ranks; it has upstream's keys, and opens in `PartialFC` and upstream's head.

        The random generators of an additional rank begin anew, from the seed `global_step + rank`.
        """
        own = self.parts[rank % len(self.parts)]
        new = {**own, HEAD: self._head(own, rank, ranks)}
        if OPTIMIZER in own:
            new[OPTIMIZER] = self._optimizer(own, rank, ranks)
        return new

    def _head(self, own: Mapping, rank: int, ranks: int) -> OrderedDict[str, Any]:
        state = OrderedDict(own[HEAD])
        for key in (key for key in SHARDED if key in state):
            state[key] = rows_of([part[HEAD][key] for part in self.parts], ranks, rank)
        metadata = copy.deepcopy(dict(getattr(own[HEAD], "_metadata", {})))
        ours = metadata.setdefault("", {}).setdefault(METADATA, {})
        _, rows = part_of(self.classes, ranks, rank)
        ours["layout"] = {"classes": self.classes, "ranks": ranks, "rank": rank, "rows": rows}
        if rank >= len(self.parts):
            ours["random"] = {"seed": int(own.get("global_step", 0)) + rank}
        vars(state)["_metadata"] = metadata
        return state

    def _optimizer(self, own: Mapping, rank: int, ranks: int) -> dict[str, Any]:
        """The optimiser's state, which numbers the parameters: `weight` is the first of the last group."""
        optimizer, weight = own[OPTIMIZER], _weight_number(own)
        if weight not in optimizer["state"]:  # no step has been made
            return optimizer
        states = [part[OPTIMIZER]["state"][weight] for part in self.parts]
        of_weight = dict(states[0])
        for name in _split_states(own):
            of_weight[name] = rows_of([state[name] for state in states], ranks, rank)
        return {**optimizer, "state": {**optimizer["state"], weight: of_weight}}


def _weight_number(part: Mapping) -> int:
    return part[OPTIMIZER]["param_groups"][-1]["params"][0]


def _split_states(part: Mapping) -> list[str]:
    """The names of the optimiser's tensors that have a row for each prototype, as momentum does."""
    shape, state = part[HEAD]["weight"].shape, part[OPTIMIZER]["state"].get(_weight_number(part), {})
    return [name for name, value in state.items() if isinstance(value, Tensor) and value.shape == shape]


def _split_tensors(part: Mapping) -> list[Tensor]:
    tensors = [part[HEAD][key] for key in SHARDED if key in part[HEAD]]
    if OPTIMIZER in part and (names := _split_states(part)):
        tensors += [part[OPTIMIZER]["state"][_weight_number(part)][name] for name in names]
    return tensors


def _shapes(part: Mapping) -> dict[str, Any]:
    """What has to agree between the ranks: the shape of a row and the type of each split tensor."""
    shapes = {key: (*part[HEAD][key].shape[1:], part[HEAD][key].dtype) for key in SHARDED if key in part[HEAD]}
    return shapes | ({OPTIMIZER: sorted(_split_states(part))} if OPTIMIZER in part else {})


def _described(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in shapes.items())
