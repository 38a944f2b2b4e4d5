"""The state of a head or a tracker that is split over ranks, gathered into one dictionary, and split again.

A module that is split names its split tensors in `SHARDED`, each with the attribute that holds its `Shard`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._sharding import Shard


def gather_state_dict(module: torch.nn.Module) -> dict[str, Any]:
    """The state dict that the module would have on one rank, with all classes and samples; every rank has to call this.

    Args:
        module: a `PrototypeHead`, a `KappaTracker`, or a module that contains some, with a process group or without.

    Returns:
        On rank 0 of the process group, the state dict with the prototypes, or the sums or vectors, of all ranks; the
        gathered tensors are on the CPU. It opens with `load_state_dict` without a process group, and with
        `split_state_dict` on any number of ranks. On the other ranks, an empty dict: they only send their parts, one
        after the other. What each rank has for itself, such as a tracker's `skipped`, is that of rank 0.

    Example::

        state = vm.gather_state_dict(head)
        if torch.distributed.get_rank() == 0:
            torch.save(state, "head.pt")
    """
    state = module.state_dict(keep_vars=False)  # by name, at which `PartialFC` gives all of its state
    shards = dict(_shards(module))
    for key, shard in shards.items():
        state[key] = _gathered(state[key], shard)
    first = all(shard.rank == 0 for shard in shards.values())
    return dict(state) if first else {}


def split_state_dict(module: torch.nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a gathered state dict that belongs to the module on this rank, for its `load_state_dict`.

    Args:
        module: as in `gather_state_dict`, on any number of ranks.
        state: what `gather_state_dict` returned on rank 0. With ``torch.load(..., mmap=True)`` each rank reads only
            what it needs.

    Raises:
        ValueError: the state has another number of classes or samples than the module.

    Example::

        head.load_state_dict(vm.split_state_dict(head, torch.load("head.pt", mmap=True)))
    """
    part = dict(state)
    for key, shard in _shards(module):
        if key in part:
            if len(part[key]) != shard.total:
                raise ValueError(
                    f"{key} has {len(part[key])} rows, the module has {shard.total} classes or samples: give a state "
                    "dict that gather_state_dict made of the same classes and samples"
                )
            part[key] = part[key][shard.start : shard.start + shard.size].clone()
    return part


def _shards(module: torch.nn.Module) -> Iterator[tuple[str, Shard]]:
    for prefix, part in module.named_modules():
        for name, attribute in getattr(part, "SHARDED", {}).items():
            yield f"{prefix}.{name}" if prefix else name, getattr(part, attribute)


def _gathered(rows: Tensor, shard: Shard) -> Tensor:
    """All rows on the CPU of rank 0; elsewhere this rank's own."""
    if shard.group is None:
        return rows.detach().cpu()
    parts = []
    for rank in range(shard.ranks):
        part = rows.detach() if rank == shard.rank else rows.new_empty(shard.part(rank)[1], *rows.shape[1:])
        device = part.device
        if dist.get_backend(shard.group) == "nccl" and device.type == "cpu":  # a memory that stays on the CPU
            part = part.cuda()
        dist.broadcast(part, dist.get_global_rank(shard.group, rank), group=shard.group)
        if shard.rank == 0:
            parts.append(part.cpu())
    return torch.cat(parts) if parts else rows
