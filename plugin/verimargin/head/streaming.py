"""Streaming over all classes to find those with a probability above 0 (mathematics, section 1).

A list of (row, column, logit) candidates replaces the (B, C) logits; it shrinks to the exact support.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._checks import EPS, check_prototypes
from .._sharding import Shard
from .product import GROUP, Product, entries_above
from .screening import SCREENS, Screen
from .step import Step
from .target import Target
from .threshold import Candidates, Threshold, joined

FIRST = 1024  # classes in the first chunk, whose bound is weak
SPARSE = 1 / 64  # above this share of candidates, computing them one by one costs more than screening saves


class Search:
    """The candidates among the classes seen so far, and the lower bound (B,) of tau that follows from them.

    The threshold of the classes seen so far is a lower bound of the threshold of all classes. Whenever the list of
    candidates has doubled, the threshold is therefore solved for again and the list is pruned.

    Args:
        product: the logits in the prototypes' own precision.
        screen: the logits in a lower one, or None.
        lower: (B,), a first lower bound of tau.
    """

    def __init__(self, product: Product, screen: Screen | None, target: Target, lower: Tensor, step: Step):
        self.product, self.screen, self.target = product, screen, target
        self.lower, self.alpha = lower, step.loss.alpha
        self.width = 1.0 / (self.alpha - 1.0)
        self.unsharded = Shard(step.shard.total, None)  # the bound is computed from this rank's classes only
        self.known: list[Candidates] = []
        self.screened: list[Candidates] = []  # with the largest logits that they can have
        self.size, self.pruned_size = 0, 4 * len(lower)
        self.sparse = False  # whether few entries of the last chunk were kept

    def look_at(self, start: int, stop: int) -> None:
        """Add the candidates of a chunk of classes."""
        before = self.size
        if self.screen is not None and self.sparse:
            self._keep(self.screened, self.screen.above(start, stop, self.lower - self.width))
        else:
            logit = self.product(start, stop)
            if start == 0:  # the target's bound alone would let most of the first chunk through
                self.lower = torch.maximum(self.lower, _highest_other(logit, self.target.column))
            row, column, logit = entries_above(logit, (self.lower - self.width)[:, None])
            self._keep(self.known, Candidates(row, column + start, logit))
        sparse = self.size - before < SPARSE * len(self.lower) * (stop - start)
        if self.sparse and not sparse:
            self.screen = None  # it lets too much pass here
        self.sparse = sparse
        if self.size > 2 * self.pruned_size:
            self._prune()

    def _keep(self, listed: list[Candidates], found: Candidates) -> None:
        listed.append(found)
        self.size += len(found)

    def _prune(self) -> None:
        found = self.found()
        rise = Threshold(found, self.target, self.lower, self.alpha).solve(self.unsharded)
        rise = rise.to(self.lower)
        rounding = torch.finfo(rise.dtype).eps * (self.lower.abs() + rise.abs())  # a bound must not be rounded up
        self.lower = torch.maximum(self.lower, self.lower + rise - rounding)
        self.known, self.screened = [found.above(self.lower - self.width)], []
        self.size = len(self.known[0])
        self.pruned_size = max(self.size, self.pruned_size)

    def found(self) -> Candidates:
        """All candidates, with their logits, without the entries of the targets, which `Target` holds."""
        listed = self.known
        if self.screened:
            screened = joined(self.screened)
            order = screened.row.argsort(stable=True)
            row, column = screened.row[order], screened.column[order]
            listed = [*listed, Candidates(row, column, self.product.pairs(row, column))]
        found = joined(listed)
        return found.where(found.column != self.target.column[found.row])


def stream(
    unit: Tensor, weight: Tensor, target: Target, lower: Tensor, step: Step
) -> tuple[Candidates, Tensor, Tensor]:
    """The non-target classes of `weight` that may be active, a lower bound (B,) of tau, and the norms of `weight`.

    Args:
        lower: (B,), a first lower bound of tau.
    """
    norm, k = weight.new_empty(len(weight)), step.subcenters
    classes = len(weight) // k
    chunk = min(max(chunk_size(len(unit), unit.device) // (k * GROUP), 1) * GROUP, classes)
    arguments = unit, weight, norm, step.loss.scale, chunk, k
    screen = SCREENS[step.screening](*arguments) if step.screening else None
    search, stop = Search(Product(*arguments), screen, target, lower, step), 0
    while (start := stop) < classes:
        stop = min(start + min(chunk, max(start, FIRST)), classes)
        part = slice(start * k, stop * k)
        torch.linalg.vector_norm(weight[part], dim=1, out=norm[part]).clamp_min_(EPS)
        search.look_at(start, stop)
    check_prototypes(norm)
    # nan is passed on: the logits of a nan prototype are never above the bound
    return search.found(), search.lower + 0.0 * norm.sum(), norm


def _highest_other(logit: Tensor, column: Tensor) -> Tensor:
    """The largest logit of each row, not counting its target, which may or may not be among these columns."""
    place = column.clamp(0, logit.shape[1] - 1)[:, None]
    inside = ((column >= 0) & (column < logit.shape[1]))[:, None]
    kept = logit.gather(1, place)
    logit.scatter_(1, place, torch.where(inside, -math.inf, kept))
    highest = logit.amax(1)
    logit.scatter_(1, place, kept)
    return highest


def chunk_size(batch_size: int, device: torch.device) -> int:
    """The number of classes per chunk: on a CPU the logits stay in the cache unless the calls would then cost more than
    that saves; on a GPU they keep it busy without filling its memory.
    """
    if device.type == "cpu":
        return min(max(2048, 2**20 // max(batch_size, 1) // GROUP * GROUP), 4096)
    return max(4096, 2**24 // max(batch_size, 1) // GROUP * GROUP)
