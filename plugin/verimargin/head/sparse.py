"""One step of the head for alpha > 1, forward and backward: only classes with a probability above 0 are kept.

The gradient is taken through the normalisation of the prototypes here, and through that of the embeddings by autograd.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..losses.divergence import as_dtype, divergence_loss_value, q_logarithm
from .product import nearest_prototypes
from .step import BLOCK, Step, differentiates, remove_radial_part_
from .streaming import stream
from .target import Target
from .threshold import Threshold

PIECE = 1024  # terms that are summed in one go


class SparseHead(torch.autograd.Function):
    """The loss of each sample (B,), from unit embeddings and prototypes of any norm, and three statistics (3,).

    The statistics are the mean number of active classes, the share of samples whose loss is zero and the mean target
    cosine.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, weight: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        alpha, scale, shard = step.loss.alpha, step.loss.scale, step.shard
        with torch.autocast(unit.device.type, enabled=False):
            target = Target(unit, weight, step, differentiates(ctx))
            found, lower, norm = stream(unit, weight, target, target.logit + q_logarithm(target.log_q, alpha), step)
            lower = shard.max(lower)
            found = found.above(lower - 1.0 / (alpha - 1.0))
            threshold = Threshold(found, target, lower, alpha)
            delta = threshold.solve(shard)
            p, p_y = threshold.probabilities(delta, shard)
            lead = p * (threshold.x - threshold.x_y[threshold.row])
            lead, active = shard.sum(threshold.row_sum(torch.stack([lead, (p > 0).to(p)])))
        value = as_dtype(divergence_loss_value(lead, threshold.rise + delta, alpha), unit.dtype)
        means = (active + (p_y > 0)).mean(), (active == 0).to(p).mean(), target.cosine.to(p).mean()
        statistics = torch.stack(means)

        # the entries that have a gradient, and d loss / d cosine of each
        row = torch.cat([found.row, torch.arange(len(unit), device=unit.device)])
        slope = torch.cat([p * scale, (p_y - 1.0) * target.slope * target.owned]).to(unit.dtype)
        used = slope != 0
        row, column, slope = row[used], torch.cat([found.column, step.column])[used], slope[used]
        prototype = nearest_prototypes(unit, weight, norm, row, column, step.subcenters)
        ctx.save_for_backward(unit, weight, norm, row, prototype, slope)
        ctx.memory = step.memory
        ctx.mark_non_differentiable(statistics)
        return value, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        unit, weight, norm, row, column, slope = ctx.saved_tensors
        slope = slope * grad_loss[row] / norm[column]
        with torch.autocast(unit.device.type, enabled=False):
            order = row.argsort()
            grad_unit = _weighted_sums(weight, row[order], column[order], slope[order], len(unit))
            if not ctx.needs_input_grad[1]:
                return grad_unit, None, None
            grad_weight = ctx.memory.zeros_like(weight)
            order = column.argsort()
            row, column, slope = row[order], column[order], slope[order]
            classes, index, counts = column.unique_consecutive(return_inverse=True, return_counts=True)
            starts = [*(counts.cumsum(0) - counts)[::BLOCK].tolist(), len(row)]
            for block, (a, b) in enumerate(itertools.pairwise(starts)):
                part = classes[block * BLOCK : (block + 1) * BLOCK]
                grad = _weighted_sums(unit, index[a:b] - block * BLOCK, row[a:b], slope[a:b], len(part))
                grad = remove_radial_part_(grad, weight.index_select(0, part), norm.index_select(0, part))
                grad_weight.index_copy_(0, part, grad)
        return grad_unit, grad_weight, None


def _weighted_sums(source: Tensor, group: Tensor, index: Tensor, weight: Tensor, groups: int) -> Tensor:
    """out[group_k] += weight_k source[index_k], (groups, d), for sorted `group`, without storing the gathered rows.

    The terms are summed in pieces of at most PIECE, and the pieces then, as in pairwise summation: one float32 sum
    over a million active classes would lose five of its seven digits.
    """
    device = group.device
    starts = torch.searchsorted(group, torch.arange(groups, device=device))
    cuts = torch.arange(0, len(group), PIECE, device=device)
    pieces = torch.cat([starts, cuts]).sort().values  # some are empty
    owner = torch.searchsorted(starts, pieces, right=True) - 1
    sums = F.embedding_bag(index, source, pieces, mode="sum", per_sample_weights=weight)
    return sums.new_zeros(groups, sums.shape[1]).index_add_(0, owner, sums)
