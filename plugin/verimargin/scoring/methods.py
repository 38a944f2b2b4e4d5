"""Scores of a list of trials by several methods, which share one cosine per trial and compute their statistics once
per embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import unit_rows
from .ida import DensityScorer, dao
from .pairs import cosine_pairs, slices
from .score_norm import ScoreNorm

ROWS = 4096  # embeddings per step of the progress bar
BLOCK = 2**29  # bytes that are taken at once
BYTES = 64  # at most that many of them are for one trial

Statistics = Sequence[Tensor]


class Method(NamedTuple):
    """A score that is a function of the cosine and of statistics that depend on one embedding each.

    Attributes:
        name: as in file names; title: as in tables.
        statistics: from embeddings (N, d) to any number of tensors (N,).
        combine: from the cosines and the statistics of both sides to the scores, for any shapes that broadcast.
    """

    name: str
    title: str
    statistics: Callable[[Tensor], Statistics]
    combine: Callable[[Tensor, Statistics, Statistics], Tensor]


COSINE = Method("cosine", "cosine", lambda f: (), lambda cosine, enrol, test: cosine)


def score_norm(norm: ScoreNorm) -> Method:
    """Score normalisation as a method; it is adaptive if the norm has a cohort_size."""
    if norm.cohort_size is None:
        return Method(norm.kind, norm.kind, norm.statistics, norm.normalise)
    title = f"adaptive {norm.kind} ({norm.cohort_size})"
    return Method(f"adaptive-{norm.kind}", title, norm.statistics, norm.normalise)


def ida(scorer: DensityScorer, name: str = "ida-r", title: str = "IDA-R") -> Method:
    """IDA as a method. Its scores are the logarithm of the DAO, which ranks pairs in the same order."""

    def combine(cosine: Tensor, enrol: Statistics, test: Statistics) -> Tensor:
        return dao(cosine, enrol[0], test[0], scorer.tau, log=True)

    full = f"{title} (k {scorer.k}, tau {scorer.tau:g})"
    return Method(name, full, lambda f: (scorer.log_density(f),), combine)


@torch.no_grad()
def statistics(method: Method, f: Tensor, progress: Callable[[Sequence], Iterable] = iter) -> Statistics:
    """``method.statistics(f)``, computed in steps that `progress` shows."""
    parts = [method.statistics(rows) for rows in progress(f.split(ROWS))]
    return [torch.cat(one) for one in zip(*parts)]


@torch.no_grad()
def score_trials(
    methods: Sequence[Method],
    f: Tensor,
    i: Tensor,
    j: Tensor,
    progress: Callable[..., Iterable] = lambda steps, title: steps,
    max_bytes: int = BLOCK,
) -> dict[str, Tensor]:
    """The scores (P,) of the embeddings i with the embeddings j, by method name; f is (N, d), i and j are (P,).

    The scores are where i is. Apart from arrays of the sizes N d and P, `max_bytes` of memory are needed at most,
    besides what the methods take for their statistics.
    """
    unit = unit_rows(f, "the embedding of sample")
    known = {method: statistics(method, f, partial(progress, title=method.title)) for method in methods}
    scores: dict[str, Tensor] = {}
    for part in slices(0, len(i), max_bytes // (2 * BYTES)):
        enrol, test = i[part].to(f.device), j[part].to(f.device)
        cosine = cosine_pairs(unit, enrol, test, max_bytes // 4)
        for method, values in known.items():
            found = method.combine(cosine, [s[enrol] for s in values], [s[test] for s in values])
            scores.setdefault(method.name, found.new_empty(len(i), device=i.device))[part] = found
    return scores
