"""What the head of a run will need on each rank, in the log before the training starts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import verimargin as vm
from verimargin.head.fresh import fresh_share
from verimargin.head.roofline import Workload, prototype_head_memory

from .output_folder import running_config

logger = logging.getLogger(__name__)


def log_head_memory(config: Any, loss: vm.MarginLoss) -> None:
    """Log, on the first rank, the memory of the head on each rank, as `verimargin plan` computes it."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank == 0:
        logger.info("%s", describe(running_config(config), loss, ranks, torch.cuda.is_available()))


def describe(config: Any, loss: vm.MarginLoss, ranks: int, gpu: bool) -> str:
    """The line of the log. What a config leaves out counts as in upstream's configs/base.py."""
    work = Workload(config.num_classes, ranks, config.get("batch_size", 128), config.get("embedding_size", 512))
    rate, subcenters = config.get("sample_rate", 1.0), config.get("subcenters", 1)
    if loss.alpha > 1.0:  # more classes may be active at the start than later
        share = fresh_share(max(int(rate * work.classes), 1), work.size, loss.alpha, loss.scale, subcenters)
        work = replace(work, active_share=max(share, work.active_share))
    rows = work.with_subcenters(subcenters)
    memory = prototype_head_memory(rows, loss.alpha, gpu, rate)
    if config.get("optimizer", "sgd") == "adamw":  # which keeps two moments
        memory = replace(memory, momentum=2 * memory.momentum)
    return (
        f"the head needs about {_shown(memory.peak)} on each of {ranks} ranks: {_shown(memory.prototypes)} for "
        f"{rows.rows:,} of {rows.classes:,} prototypes, as much for their gradient, {_shown(memory.momentum)} for the "
        f"optimiser's state, and at times up to {_shown(max(memory.float16_copy + memory.head, memory.optimiser))} more"
    )


def _shown(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
