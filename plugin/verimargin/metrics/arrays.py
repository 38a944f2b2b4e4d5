"""What all metrics do with the arrays that they are given."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

Weights = ArrayLike | None  # one per trial
BLOCK = 2**20  # scores that are treated at once


def flat(values: ArrayLike) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values).reshape(-1)


def checked_scores(name: str, scores: ArrayLike, weight: ArrayLike | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The scores, in float32 if they are given so and else in float64, and their weights, if there are any."""
    scores = flat(scores)
    scores = scores.astype(np.float32 if scores.dtype == np.float32 else float, copy=False)
    if not len(scores):
        raise ValueError(f"there is no {name} score: a metric needs both target and non-target trials")
    if (bad := np.isnan(scores)).any():
        raise ValueError(f"{name} score {int(np.argmax(bad))} is nan: look at that trial's embeddings")
    if weight is None:
        return scores, None
    weight = flat(weight).astype(float, copy=False)
    if weight.shape != scores.shape or not weight.min() >= 0 or not 0 < weight.sum() < np.inf:
        raise ValueError(f"the {name} weights must be {len(scores)} numbers >= 0, not all 0")
    return scores, weight


def blocks(length: int) -> Iterator[slice]:
    """Consecutive parts of arrays of this length, so that what is computed from a part takes little memory."""
    return (slice(first, min(first + BLOCK, length)) for first in range(0, length, BLOCK))


def check_costs(**costs: float) -> None:
    for name, cost in costs.items():
        if not 0.0 < cost < math.inf:
            raise ValueError(f"{name} is {cost}: give a finite cost above 0")


def check_prior(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value}: give the prior of a target trial, between 0 and 1")
