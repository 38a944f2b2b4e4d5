"""What one step of the head is given, and what both ways to compute it share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._sharding import Shard
from ..losses.margin_loss import MarginLoss
from .gradient_memory import GradientMemory

BLOCK = 1024  # classes at a time where a (C, d) temporary would be the alternative


@dataclass(frozen=True)
class Step:
    """A step's parameters, beside the unit embeddings (B, d) and the prototypes that get a gradient."""

    label: Tensor  # (B,) global class ids
    column: Tensor  # (B,) their rows among this step's prototypes, -1 where another rank holds the class
    loss: MarginLoss
    shard: Shard  # of the classes
    memory: GradientMemory


def differentiates(ctx: Any) -> bool:
    return any(ctx.needs_input_grad) and not torch.is_inference_mode_enabled()


def remove_radial_part_(grad: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
    """From the gradient of w / |w|, divided by |w|, to the gradient of w: without its part along w. In place."""
    unit = weight / norm[:, None]
    return grad.sub_(unit.mul_((grad * unit).sum(1, keepdim=True)))
