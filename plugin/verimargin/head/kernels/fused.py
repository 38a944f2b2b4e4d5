"""A step of the exact head for alpha > 1 on a GPU: screened in float16, decided in float32.

    rounded, residual, norm     the unit prototypes in float16, one pass over the prototypes
    group_maxima, threshold     a lower bound of tau, from a part of the classes: their tau is never above that of all
    survivors                   the entries that neither this bound nor the rounding error rules out; one read-back
    pair_logits, probabilities  their logits in float32, tau, p and the loss
    embedding_gradients, prototype_gradients     backward, from the entries with p > 0

The result is that of `SparseHead`: an entry that is not listed has p = 0 exactly.

With the classes split over ranks, each screens its own. The ranks share the best of their bounds, and then the
logits of the survivors, which are few: each rank computes all probabilities from them, and the gradients of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..step import Step, differentiates
from ..target import Target
from .gradients import embedding_gradients, prototype_gradients
from .launch import has_kernels
from .pairs import pair_logits
from .products import group_maxima, survivors
from .rounding import round_rows, round_unit_rows
from .threshold import probabilities, threshold

# The first bound of tau comes from every SAMPLE-th class. From all of 100,000 classes, it lets 27 entries per row pass
# where 28 are active (clusters of 50), and 97 where 93 are (fresh prototypes). From 1/4: 39
# and 250; from 1/8: 46 and 503.
SAMPLE = 4
SMALLEST_PART = 4096  # classes; a smaller part gives a bound that is not worth the time
TAU_ERROR = 2.0**-20  # relative; several times float32's rounding of tau


@dataclass
class Found:
    """The entries that may be active, sorted by row: those of row i from pointer[i] to pointer[i + 1]."""

    row: Tensor  # (n,) int64
    column: Tensor  # (n,) int64
    logit: Tensor  # (n,)
    pointer: Tensor  # (B + 1,) int64
    lower: Tensor  # (B,) the lower bound of tau that was used
    norm: Tensor  # (C,) of the prototypes


def applies(unit: Tensor, weight: Tensor, step: Step) -> bool:
    """Whether `FusedHead` can compute this step: alpha > 1, one prototype per class, and float32 on a device with
    kernels, on all ranks.
    """
    kind = step.loss.alpha > 1.0 and step.subcenters == 1 and unit.dtype == weight.dtype == torch.float32
    if not kind or not unit.numel():
        return False
    return step.shard.unanimous("has kernels", partial(_has_kernels, unit, weight, step), unit.device)


def _has_kernels(unit: Tensor, weight: Tensor, step: Step) -> bool:
    if step.shard.group is not None:
        round_unit_rows(unit)  # a Triton that cannot compile fails here, before the ranks agree
    return has_kernels(unit, weight)


def screen(unit: Tensor, weight: Tensor, target: Target, step: Step) -> Found:
    """The non-target classes of `weight` that may be active, with their logits: a superset of the support."""
    alpha, scale = step.loss.alpha, step.loss.scale
    rounded, norm, residual = round_rows(weight)
    e, e_error = round_unit_rows(unit)
    stride = max(1, min(SAMPLE, len(weight) // SMALLEST_PART))
    own = torch.where((target.column >= 0) & (target.column % stride == 0), target.column // stride, -1)
    maxima = group_maxima(e, rounded[::stride], e_error, residual[::stride], own, scale)
    groups = maxima.shape[1]
    pointer = torch.arange(len(unit) + 1, device=unit.device) * groups
    lower = step.shard.max(threshold(maxima.flatten(), pointer, target.logit, target.log_q, alpha))
    width = 1.0 / (alpha - 1.0)
    bound = (lower - width - TAU_ERROR * (lower.abs() + width)) / scale
    row, column, pointer = survivors(e, rounded, e_error, residual, bound, target.column)
    logit = pair_logits(unit, weight, norm, row, column, scale)
    return Found(row, column, logit, pointer, lower, norm)


class FusedHead(torch.autograd.Function):
    """What `SparseHead` computes: the loss of each sample (B,), from unit embeddings and prototypes of any norm, and
    the three statistics (3,).
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, weight: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        with torch.autocast(unit.device.type, enabled=False):
            target = Target(unit, weight, step, differentiates(ctx))
            found = screen(unit, weight, target, step)
            logit, pointer, own = step.shard.gather_lists(found.logit, found.pointer)
            p, residual, loss, active = probabilities(logit, pointer, target.logit, target.log_q, step.loss.alpha)
        statistics = torch.stack([active.to(loss).mean(), (residual == 0).to(loss).mean(), target.cosine.mean()])
        row = torch.cat([found.row, torch.arange(len(unit), device=unit.device)])
        column = torch.cat([found.column, step.column.clamp_min(0)])
        slope = torch.cat([p[own] * step.loss.scale, residual * target.slope * target.owned])
        ctx.save_for_backward(unit, weight, found.norm, row, column, slope)
        ctx.mark_non_differentiable(statistics)
        return loss, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        unit, weight, norm, row, column, slope = ctx.saved_tensors
        slope = slope * grad_loss[row]
        grad_weight = None
        with torch.autocast(unit.device.type, enabled=False):
            grad_unit = embedding_gradients(weight, norm, row, column, slope, len(unit))
            if ctx.needs_input_grad[1]:
                grad_weight = prototype_gradients(unit, weight, norm, row, column, slope)
        return grad_unit, grad_weight, None
