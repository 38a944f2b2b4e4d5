"""``config.pretrained``: a training that starts from the weights of a finished run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import verimargin as vm
from torch import Tensor
from verimargin._sharding import rows_of
from verimargin.files.prototypes import PRUNED, read_prototypes
from verimargin.files.reading import read_tensors

from .rank_files import HEAD, find, newest
from .resharding import ShardedCheckpoint

logger = logging.getLogger(__name__)

BACKBONE = "state_dict_backbone"


class Pretrained:
    """The weights of a finished run: of the backbone, and of the prototypes if they are there.

    Args:
        path: a `model.pt`, which has the backbone alone, so that the prototypes are new; or the output folder of a run
            with ``config.save_all_states = True``, on any number of ranks, whose prototypes are inherited; or what
            `verimargin prune` made of it.

    Raises:
        ValueError: there is no such file, or the folder has no whole checkpoint.
    """

    def __init__(self, path: str | Path):
        self.path, self.checkpoint = Path(path), None
        self._pruned: Tensor | None = None
        if (self.path / PRUNED).is_file():
            self._pruned = read_prototypes([self.path / PRUNED])
            self._backbone = _backbone_of(self.path / "model.pt")
            return
        if self.path.is_dir():
            try:
                files = newest(self.path, *find(self.path))
            except ValueError as error:
                raise ValueError(
                    f"config.pretrained: {error}; or give its model.pt, to start with new prototypes"
                ) from error
            self.checkpoint = ShardedCheckpoint([file.path for file in files])
        elif not self.path.is_file():
            raise ValueError(
                f"config.pretrained is {str(path)!r}, which is not there: give a model.pt or the output folder of a run"
            )
        self._backbone = _backbone_of(self.path) if self.checkpoint is None else self.checkpoint.parts[0][BACKBONE]

    @property
    def _has_prototypes(self) -> bool:
        return self.checkpoint is not None or self._pruned is not None

    def _prototypes(self) -> list[Tensor]:
        """The prototypes of the run, in parts."""
        if self.checkpoint is not None:
            return [part[HEAD]["weight"] for part in self.checkpoint.parts]
        return [] if self._pruned is None else [self._pruned]

    def load_backbone(self, backbone: torch.nn.Module) -> torch.nn.Module:
        """The backbone, with the weights of the run."""
        try:
            backbone.load_state_dict(self._backbone)
        except RuntimeError as error:
            raise ValueError(
                f"config.pretrained: {self.path} is of another network than config.network, or another embedding_size: "
                f"{error}"
            ) from error
        logger.info(
            "the training starts from %s, with %s prototypes", self.path, "its" if self._has_prototypes else "new"
        )
        return backbone

    def load_prototypes(self, head: vm.PrototypeHead) -> None:
        """Give the head this rank's part of the prototypes, if the run's are known."""
        if not self._has_prototypes:
            return
        parts = self._prototypes()
        found, wanted = sum(map(len, parts)), head.num_classes
        if found != wanted:
            raise ValueError(
                f"config.pretrained: {self.path} has {found} classes, config.num_classes is {wanted}: give the run's "
                "model.pt, to start with new prototypes"
            )
        rows = rows_of(parts, dist.get_world_size(), dist.get_rank())
        if rows.shape != head.weight.shape:
            raise ValueError(
                f"config.pretrained: {self.path} has prototypes of shape {tuple(rows.shape[1:])} for each class, the "
                f"head of shape {tuple(head.weight.shape[1:])}: give the run's model.pt, to start with new prototypes"
            )
        with torch.no_grad():
            head.weight.copy_(rows)


def _backbone_of(path: Path) -> Mapping[str, Any]:
    try:
        state = read_tensors(path, "the weights of a network")
    except (ValueError, OSError) as error:
        raise ValueError(f"config.pretrained: {error}") from error
    if not isinstance(state, Mapping) or HEAD in state:
        raise ValueError(
            f"config.pretrained: {path} is not the weights of a network: give a model.pt, or the folder of the run, "
            "which holds the checkpoints of all ranks"
        )
    return state
