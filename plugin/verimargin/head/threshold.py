"""The list of entries that may have a probability above 0, in place of the (B, C) logits, and the threshold of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
from .target import Target


@dataclass
class Candidates:
    """The sample, local class and logit of each entry whose probability may be above 0, as flat tensors."""

    row: Tensor
    column: Tensor
    logit: Tensor

    def where(self, keep: Tensor) -> Candidates:
        place = keep.nonzero().squeeze(1)
        row, column, logit = (x.index_select(0, place) for x in (self.row, self.column, self.logit))
        return Candidates(row, column, logit)

    def above(self, bound: Tensor) -> Candidates:
        return self.where(self.logit > bound.index_select(0, self.row))

    def __len__(self) -> int:
        return len(self.row)


def joined(lists: list[Candidates]) -> Candidates:
    row, column, logit = (torch.cat([getattr(part, name) for part in lists]) for name in ("row", "column", "logit"))
    return Candidates(row, column, logit)


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
