"""One step of the head for alpha = 1, forward and backward: every class has a probability above 0.

The gradient is taken through the normalisation of the prototypes here, and through that of the embeddings by autograd.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._checks import EPS, check_prototypes
from .step import BLOCK, Step, differentiates, remove_radial_part_
from .target import Target


class DenseHead(torch.autograd.Function):
    """The loss of each sample, (B,), from unit embeddings and prototypes of any norm, and the statistics (3,) of
    `SparseHead`, of which the first two have no meaning here and are nan.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, weight: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        scale, shard = step.loss.scale, step.shard
        with torch.autocast(unit.device.type, enabled=False):
            target = Target(unit, weight, step, differentiates(ctx))
            norm = torch.linalg.vector_norm(weight, dim=1).clamp_min_(EPS)
            check_prototypes(norm)
            logit = torch.mm(unit, weight.t()).mul_(scale / norm)
            p, center = (logit, None) if step.subcenters == 1 else logit.unflatten(1, (-1, step.subcenters)).max(2)
            row, column = target.owned.nonzero().squeeze(1), step.column[target.owned]
            target_logit = target.logit + target.log_q
            p[row, column] = target_logit[row]
            highest = shard.max(p.amax(1))
            p.sub_(highest[:, None]).exp_()
            total = shard.sum(p.sum(1))
            p.div_(total[:, None])
        p[row, column] = (p[row, column] - 1.0) * target.slope[row] / scale
        # d loss / d cosine, divided by the prototype's norm
        slope = (p if center is None else _of_subcenters(p, center, step.subcenters)).mul_(scale / norm)
        ctx.save_for_backward(unit, weight, norm, slope)
        ctx.memory = step.memory
        mean = target.cosine.mean()
        statistics = torch.stack([mean.new_full((), math.nan), mean.new_full((), math.nan), mean])
        ctx.mark_non_differentiable(statistics)
        return highest + total.log() - target_logit, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        unit, weight, norm, slope = ctx.saved_tensors
        grad_loss = grad_loss[:, None]
        with torch.autocast(unit.device.type, enabled=False):
            grad_unit = torch.mm(slope, weight).mul_(grad_loss)
            if not ctx.needs_input_grad[1]:
                return grad_unit, None, None
            grad_weight = torch.mm(slope.t(), unit * grad_loss, out=ctx.memory.zeros_like(weight))
            for start in range(0, len(weight), BLOCK):
                block = slice(start, start + BLOCK)
                remove_radial_part_(grad_weight[block], weight[block], norm[block])
        return grad_unit, grad_weight, None


def _of_subcenters(slope: Tensor, center: Tensor, subcenters: int) -> Tensor:
    """The slopes (B, C K) of all sub-centres from those of the classes: the nearest one has it, the others have 0."""
    spread = slope.new_zeros(*slope.shape, subcenters)
    return spread.scatter_(2, center[:, :, None], slope[:, :, None]).flatten(1)
