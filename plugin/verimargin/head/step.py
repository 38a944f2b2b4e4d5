"""The parameters of one step of the head, and what its dense and its sparse computation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._sharding import Shard
from ..losses.margin_loss import MarginLoss
from .gradient_memory import GradientMemory

BLOCK = 1024  # classes that are processed at a time, to avoid a (C, d) temporary


@dataclass(frozen=True, eq=False)
class Step:
    """The parameters of a step, apart from the unit embeddings (B, d) and the prototypes, which get a gradient."""

    label: Tensor  # (B,) global class ids
    column: Tensor  # (B,) the rows of these classes among the step's prototypes; -1 if another rank holds the class
    loss: MarginLoss
    shard: Shard  # this rank's part of the classes
    memory: GradientMemory
    screening: torch.dtype | None = None  # the type in which the classes are screened, if they are
    subcenters: int = 1  # prototypes per class, in rows that follow one another
    norms: Tensor | None = None  # (B,) of the embeddings before their normalisation, for a margin with a `Quality`


def differentiates(ctx: Any) -> bool:
    return any(ctx.needs_input_grad) and not torch.is_inference_mode_enabled()


def remove_radial_part_(grad: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
    """Remove the part of `grad` along `weight`, in place.

    If `grad` is the gradient with respect to w / |w|, divided by |w|, this makes it the gradient with respect to w.
    """
    unit = weight / norm[:, None]
    return grad.sub_(unit.mul_((grad * unit).sum(1, keepdim=True)))
