"""One step of the head, forward and backward: streamed for alpha > 1, dense for alpha = 1.

Both give the loss of each sample from unit embeddings and prototypes of any norm; the gradient of a
prototype is taken through its normalisation here, that of an embedding by autograd.
"""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .._checks import check_prototypes
from .._sharding import ClassShard
from ..losses.divergence import as_dtype, divergence_loss_value, q_logarithm
from .streaming import EPS, Target, Threshold, stream

BLOCK = 1024  # classes at a time where a (C, d) temporary would be the alternative


class SparseHead(torch.autograd.Function):
    """The loss of each sample, (B,), for alpha > 1, and the step's statistics, (2,)."""

    @staticmethod
    def forward(ctx, unit, weight, label, column, loss, shard, memory):
        with torch.autocast(unit.device.type, enabled=False):
            target = Target(unit, weight, label, column, loss, shard, _differentiates(ctx))
            ln_q_y = q_logarithm(target.log_q, loss.alpha)
            alone = ClassShard(shard.num_classes, None)
            found, lower, norm = stream(unit, weight, target, target.logit + ln_q_y, loss, alone)
            lower = shard.max(lower)
            found = found.above(lower - 1.0 / (loss.alpha - 1.0))
            threshold = Threshold(found, target, lower, loss.alpha)
            delta = threshold.solve(shard)
            p, p_y = threshold.probabilities(delta, shard)
            expected, active = shard.sum(threshold.row_sum(torch.stack([p * threshold.x, (p > 0).to(p)])))
        expected = expected + p_y * threshold.x_y
        value = as_dtype(divergence_loss_value(expected, delta, threshold.x_y, ln_q_y, loss.alpha), unit.dtype)
        statistics = torch.stack([(active + (p_y > 0)).mean(), (active == 0).to(p).mean()])

        # the entries with a gradient, and d loss / d cosine
        row = torch.cat([found.row, torch.arange(len(unit), device=unit.device)])
        slope = torch.cat([p * loss.scale, (p_y - 1.0) * target.slope * target.owned]).to(unit.dtype)
        used = slope != 0
        ctx.save_for_backward(unit, weight, norm, row[used], torch.cat([found.column, column])[used], slope[used])
        ctx.memory = memory
        ctx.mark_non_differentiable(statistics)
        return value, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _):
        unit, weight, norm, row, column, slope = ctx.saved_tensors
        slope = slope * grad_loss[row] / norm[column]
        with torch.autocast(unit.device.type, enabled=False):
            order = row.argsort()
            grad_unit = _bags(weight, row[order], column[order], slope[order], len(unit))
            if not ctx.needs_input_grad[1]:
                return grad_unit, *[None] * 6
            grad_weight = ctx.memory.zeros_like(weight)
            order = column.argsort()
            row, column, slope = row[order], column[order], slope[order]
            classes, index, counts = column.unique_consecutive(return_inverse=True, return_counts=True)
            starts = [*(counts.cumsum(0) - counts)[::BLOCK].tolist(), len(row)]
            for block, (a, b) in enumerate(itertools.pairwise(starts)):
                part = classes[block * BLOCK : (block + 1) * BLOCK]
                grad = _bags(unit, index[a:b] - block * BLOCK, row[a:b], slope[a:b], len(part))
                grad_weight[part] = _tangent_(grad, weight[part], norm[part])
        return grad_unit, grad_weight, *[None] * 5


class DenseHead(torch.autograd.Function):
    """The loss of each sample, (B,), for alpha = 1."""

    @staticmethod
    def forward(ctx, unit, weight, label, column, loss, shard, memory):
        with torch.autocast(unit.device.type, enabled=False):
            target = Target(unit, weight, label, column, loss, shard, _differentiates(ctx))
            norm = torch.linalg.vector_norm(weight, dim=1).clamp_min_(EPS)
            check_prototypes(norm)
            p = torch.mm(unit, weight.t()).mul_(loss.scale / norm)
            row, column = target.owned.nonzero().squeeze(1), column[target.owned]
            own = target.logit + target.log_q
            p[row, column] = own[row]
            highest = shard.max(p.amax(1))
            p.sub_(highest[:, None]).exp_()
            total = shard.sum(p.sum(1))
            p.div_(total[:, None])
        target_slope = (p[row, column] - 1.0) * target.slope[row] / norm[column]
        slope = p.mul_(loss.scale / norm)  # d loss / d cosine, over the prototype's norm
        slope[row, column] = target_slope
        ctx.save_for_backward(unit, weight, norm, slope)
        ctx.memory = memory
        return highest + total.log() - own

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        unit, weight, norm, slope = ctx.saved_tensors
        grad_loss = grad_loss[:, None]
        with torch.autocast(unit.device.type, enabled=False):
            grad_unit = torch.mm(slope, weight).mul_(grad_loss)
            if not ctx.needs_input_grad[1]:
                return grad_unit, *[None] * 6
            grad_weight = torch.mm(slope.t(), unit * grad_loss, out=ctx.memory.zeros_like(weight))
            for start in range(0, len(weight), BLOCK):
                block = slice(start, start + BLOCK)
                _tangent_(grad_weight[block], weight[block], norm[block])
        return grad_unit, grad_weight, *[None] * 5


def _differentiates(ctx) -> bool:
    return any(ctx.needs_input_grad) and not torch.is_inference_mode_enabled()


def _bags(source: Tensor, bag: Tensor, index: Tensor, weight: Tensor, num_bags: int) -> Tensor:
    """out[bag_k] += weight_k source[index_k], (num_bags, d), for rising bags: without the gathered rows in memory."""
    offsets = torch.searchsorted(bag, torch.arange(num_bags, device=bag.device))
    return F.embedding_bag(index, source, offsets, mode="sum", per_sample_weights=weight)


def _tangent_(grad: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
    """From the gradient of w/|w|, over |w|, to that of w: without its part along w. In place."""
    unit = weight / norm[:, None]
    return grad.sub_(unit.mul_((grad * unit).sum(1, keepdim=True)))


class GradientMemory:
    """The memory of the prototypes' gradient, used again once nobody holds the last gradient.

    On a CPU, first touching a fresh (C, d) gradient costs as much as the matrix product of the step.
    """

    def __init__(self):
        self._array: np.ndarray | None = None
        self._kind: tuple | None = None  # its shape and dtype
        self._lent = weakref.ref(self)  # any object; below, the view whose life is the gradient's

    def zeros_like(self, weight: Tensor) -> Tensor:
        if weight.device.type != "cpu":
            return torch.zeros_like(weight)
        shape = tuple(weight.shape)
        if self._array is None or self._lent() is not None or self._kind != (shape, weight.dtype):
            self._array, self._kind = torch.empty_like(weight).numpy(), (shape, weight.dtype)
        view = self._array[:]
        self._lent = weakref.ref(view)
        return torch.from_numpy(view).zero_()

    def __reduce__(self):
        return GradientMemory, ()  # a copy of the head starts with memory of its own
