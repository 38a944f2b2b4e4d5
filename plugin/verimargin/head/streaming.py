"""Streaming over all classes to find those with a probability above 0 (mathematics, section 1).

A list of (row, column, logit) candidates replaces the (B, C) logits; it shrinks to the exact support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import EPS, check_prototypes
from .._sharding import Shard
from ..losses.divergence import (
    TargetMass,
    mass_and_slope,
    q_logarithm,
    remove_residual,
    solvable,
    solve_threshold,
    upper_threshold,
)
from .step import Step
from .target import Target

GROUP = 64  # columns


@dataclass
class Candidates:
    """The sample, local class and logit of each entry whose probability may be above 0, as flat tensors."""

    row: Tensor
    column: Tensor
    logit: Tensor

    def above(self, bound: Tensor) -> Candidates:
        keep = self.logit > bound[self.row]
        return Candidates(self.row[keep], self.column[keep], self.logit[keep])

    def __len__(self) -> int:
        return len(self.row)


class Threshold:
    """The equation sum_j p_j = 1 for the candidates and the target, with `lower` (B,) as the origin of each row."""

    def __init__(self, candidates: Candidates, target: Target, lower: Tensor, alpha: float):
        self.row, self.alpha, self.log_q = candidates.row, alpha, solvable(target.log_q, alpha)
        self.x = solvable(candidates.logit - lower[candidates.row], alpha)
        self.x_y = solvable(target.logit - lower, alpha)
        alone = target.logit + q_logarithm(target.log_q, alpha)
        self.mass_y = TargetMass(self.x_y, self.log_q, alone >= lower, alpha)
        self.rise = lower - alone  # of the origin above the threshold of the target alone

    def row_sum(self, values: Tensor) -> Tensor:
        """Sums over the candidates of each row: (n, candidates) to (n, B); in float64, as there may be a million."""
        sums = values.new_zeros(len(values), len(self.x_y), dtype=torch.float64)
        return sums.index_add_(1, self.row, values.double()).to(values.dtype)

    def mass(self, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """p and its slope, first of the candidates, then of the target."""
        others = mass_and_slope(self.x - delta[self.row], self.alpha)
        return *others, *self.mass_y(delta)

    def total(self, delta: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
        """sum_j p_j and its slope, over the target and the candidates of all ranks."""
        p, slope, p_y, slope_y = self.mass(delta)
        total, total_slope = shard.sum(self.row_sum(torch.stack([p, slope])))
        return total + p_y, total_slope + slope_y

    def solve(self, shard: Shard) -> Tensor:
        """The threshold relative to its origin, tau - lower (B,)."""
        highest = shard.max(self.x_y.scatter_reduce(0, self.row, self.x, "amax"))
        upper = upper_threshold(highest, self.log_q, shard.total, self.alpha)
        return solve_threshold(lambda delta: self.total(delta, shard), upper, self.alpha)

    def probabilities(self, delta: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
        """p of this rank's candidates, and p_y (B,)."""
        total, total_slope = self.total(delta, shard)
        p, slope, p_y, slope_y = self.mass(delta)
        p = remove_residual(p, slope, total[self.row], total_slope[self.row], self.alpha)
        return p, remove_residual(p_y, slope_y, total, total_slope, self.alpha)


def stream(
    unit: Tensor, weight: Tensor, target: Target, lower: Tensor, step: Step
) -> tuple[Candidates, Tensor, Tensor]:
    """The non-target classes of `weight` that may be active, a lower bound (B,) of tau, and the norms of `weight`.

    The threshold of the classes seen so far is a lower bound of the threshold of all classes. Whenever the list of
    candidates has doubled, the threshold is therefore solved for again and the list is pruned.

    Args:
        lower: (B,), a first lower bound of tau.
    """
    alpha, scale, width = step.loss.alpha, step.loss.scale, 1.0 / (step.loss.alpha - 1.0)
    unsharded = Shard(step.shard.total, None)  # the bound is computed from this rank's classes only
    listed: list[Candidates] = []
    size, pruned_size = 0, 4 * len(unit)
    norm = weight.new_empty(len(weight))
    chunk = _chunk_size(len(unit), unit.device)
    buffer = unit.new_empty(len(unit) * min(chunk, len(weight)))
    for start in range(0, len(weight), chunk):
        part, part_norm = weight[start : start + chunk], norm[start : start + chunk]
        torch.linalg.vector_norm(part, dim=1, out=part_norm).clamp_min_(EPS)
        logit = buffer[: len(unit) * len(part)].view(len(unit), len(part))
        torch.mm(unit, part.t(), out=logit).mul_(scale / part_norm)
        if start == 0:  # the target's bound alone would let most of the first chunk through
            lower = torch.maximum(lower, _highest_other(logit, target.column))
            bound = (lower - width)[:, None]
        row, column = _above(logit, bound)
        listed.append(Candidates(row, column + start, logit[row, column]))
        size += len(row)
        if size > 2 * pruned_size:
            found = _merge(listed, target)
            lower = lower + Threshold(found, target, lower, alpha).solve(unsharded).to(lower)
            listed, bound = [found.above(lower - width)], (lower - width)[:, None]
            size = len(listed[0])
            pruned_size = max(size, pruned_size)
    check_prototypes(norm)
    lower = lower + 0.0 * norm.sum()  # propagates nan: the logits of a nan prototype are never above the bound
    return _merge(listed, target), lower, norm


def _merge(listed: list[Candidates], target: Target) -> Candidates:
    """The lists joined into one, without the entries of the targets, which `Target` holds."""
    row, column, logit = (torch.cat([getattr(part, name) for part in listed]) for name in ("row", "column", "logit"))
    other = column != target.column[row]
    return Candidates(row[other], column[other], logit[other])


def _above(logit: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and columns of the entries above the bound (B, 1) of their row.

    Equivalent to ``(logit > bound).nonzero(as_tuple=True)``, and ten times as fast if there are few such entries:
    only the groups of columns whose largest entry is above the bound are searched.
    """
    if logit.shape[1] % GROUP:
        row, column = (logit > bound).nonzero(as_tuple=True)
        return row, column
    groups = logit.unflatten(1, (-1, GROUP))
    row, group = (groups.amax(2) > bound).nonzero(as_tuple=True)
    hit, place = (groups[row, group] > bound[row]).nonzero(as_tuple=True)
    return row[hit], group[hit] * GROUP + place


def _highest_other(logit: Tensor, column: Tensor) -> Tensor:
    """The largest logit of each row, not counting its target, which may or may not be among these columns."""
    place = column.clamp(0, logit.shape[1] - 1)[:, None]
    inside = ((column >= 0) & (column < logit.shape[1]))[:, None]
    kept = logit.gather(1, place)
    logit.scatter_(1, place, torch.where(inside, -math.inf, kept))
    highest = logit.amax(1)
    logit.scatter_(1, place, kept)
    return highest


def _chunk_size(batch_size: int, device: torch.device) -> int:
    """The number of classes per chunk: on a CPU the logits stay in the cache; on a GPU they keep it busy without
    filling its memory.
    """
    size = 2 ** (19 if device.type == "cpu" else 24) // max(batch_size, 1)
    return max(1024, size // GROUP * GROUP)
