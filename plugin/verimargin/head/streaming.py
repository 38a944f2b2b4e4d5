"""The classes that may have a probability, found by streaming over all of them (mathematics, section 1).

A list of (row, column, logit) candidates stands in for the (B, C) logits; it shrinks to the exact support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import EPS, check_prototypes
from .._sharding import Shard
from ..losses.divergence import mass_and_slope, remove_residual, solvable, solve_threshold, upper_threshold
from .step import Step
from .target import Target

GROUP = 64  # columns


@dataclass
class Candidates:
    """A flat list of the classes that may have a probability: sample, local class and logit."""

    row: Tensor
    column: Tensor
    logit: Tensor

    def above(self, bound: Tensor) -> Candidates:
        keep = self.logit > bound[self.row]
        return Candidates(self.row[keep], self.column[keep], self.logit[keep])

    def __len__(self) -> int:
        return len(self.row)


class Threshold:
    """The equation sum_j p_j = 1 for listed candidates and the target, with `lower` as each row's origin."""

    def __init__(self, candidates: Candidates, target: Target, lower: Tensor, alpha: float):
        self.row, self.alpha, self.log_q = candidates.row, alpha, solvable(target.log_q, alpha)
        self.x = solvable(candidates.logit - lower[candidates.row], alpha)
        self.x_y = solvable(target.logit - lower, alpha)

    def row_sum(self, values: Tensor) -> Tensor:
        """(n, candidates) to (n, B)."""
        return values.new_zeros(len(values), len(self.x_y)).index_add_(1, self.row, values)

    def mass(self, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """p and its slope of the candidates, and of the target."""
        others = mass_and_slope(self.x - delta[self.row], self.alpha)
        return *others, *mass_and_slope(self.x_y - delta, self.alpha, self.log_q)

    def total(self, delta: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
        """sum_j p_j and its slope, over the candidates of all ranks of the shard and the target."""
        p, slope, p_y, slope_y = self.mass(delta)
        total, total_slope = shard.sum(self.row_sum(torch.stack([p, slope])))
        return total + p_y, total_slope + slope_y

    def solve(self, shard: Shard) -> Tensor:
        """tau - lower."""
        highest = shard.max(self.x_y.scatter_reduce(0, self.row, self.x, "amax"))
        upper = upper_threshold(highest, self.log_q, shard.total, self.alpha)
        return solve_threshold(lambda delta: self.total(delta, shard), upper, self.alpha)

    def probabilities(self, delta: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
        """p of this rank's candidates, and p_y."""
        total, total_slope = self.total(delta, shard)
        p, slope, p_y, slope_y = self.mass(delta)
        p = remove_residual(p, slope, total[self.row], total_slope[self.row], self.alpha)
        return p, remove_residual(p_y, slope_y, total, total_slope, self.alpha)


def stream(
    unit: Tensor, weight: Tensor, target: Target, lower: Tensor, step: Step
) -> tuple[Candidates, Tensor, Tensor]:
    """The other classes of `weight` that may be active, a lower bound (B,) of tau, and the norms of `weight`.

    The threshold of the classes seen so far is a lower bound of the threshold of all, so it is solved for
    again, and the list pruned, whenever the list has doubled.
    """
    alpha, scale, width = step.loss.alpha, step.loss.scale, 1.0 / (step.loss.alpha - 1.0)
    here = Shard(step.shard.total, None)  # the bound is of this rank's classes alone
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
        if start == 0:  # with the target's bound alone, most of the first chunk would be listed
            lower = torch.maximum(lower, _highest_other(logit, target.column))
            bound = (lower - width)[:, None]
        row, column = _above(logit, bound)
        listed.append(Candidates(row, column + start, logit[row, column]))
        size += len(row)
        if size > 2 * pruned_size:
            found = _merge(listed, target)
            lower = lower + Threshold(found, target, lower, alpha).solve(here).to(lower)
            listed, bound = [found.above(lower - width)], (lower - width)[:, None]
            size = len(listed[0])
            pruned_size = max(size, pruned_size)
    check_prototypes(norm)
    lower = lower + 0.0 * norm.sum()  # a nan prototype is below every bound, and must not pass unseen
    return _merge(listed, target), lower, norm


def _merge(listed: list[Candidates], target: Target) -> Candidates:
    """One list without the targets' own entries, which are known apart."""
    row, column, logit = (torch.cat([getattr(part, name) for part in listed]) for name in ("row", "column", "logit"))
    other = column != target.column[row]
    return Candidates(row[other], column[other], logit[other])


def _above(logit: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries above their row's bound (B, 1).

    Equivalent to ``(logit > bound).nonzero(as_tuple=True)``, ten times as fast where they are few: only
    groups of columns whose largest entry is above are looked into.
    """
    if logit.shape[1] % GROUP:
        row, column = (logit > bound).nonzero(as_tuple=True)
        return row, column
    groups = logit.unflatten(1, (-1, GROUP))
    row, group = (groups.amax(2) > bound).nonzero(as_tuple=True)
    hit, place = (groups[row, group] > bound[row]).nonzero(as_tuple=True)
    return row[hit], group[hit] * GROUP + place


def _highest_other(logit: Tensor, column: Tensor) -> Tensor:
    """Each row's largest logit but its target's, which may be among these columns."""
    place = column.clamp(0, logit.shape[1] - 1)[:, None]
    inside = ((column >= 0) & (column < logit.shape[1]))[:, None]
    kept = logit.gather(1, place)
    logit.scatter_(1, place, torch.where(inside, -math.inf, kept))
    highest = logit.amax(1)
    logit.scatter_(1, place, kept)
    return highest


def _chunk_size(batch_size: int, device: torch.device) -> int:
    """Classes at a time: their logits stay in a CPU's cache, or fill a GPU without filling its memory."""
    size = 2 ** (19 if device.type == "cpu" else 24) // max(batch_size, 1)
    return max(1024, size // GROUP * GROUP)
