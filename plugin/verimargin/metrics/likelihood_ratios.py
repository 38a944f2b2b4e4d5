"""How good scores are as log-likelihood ratios."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Weights, blocks, checked_scores


def cllr(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> float:
    """The cost, in bits, of scores that are natural log-likelihood ratios: 0 is perfect, 1 carries no information.

    Half the sum of the mean of log2(1 + exp(-s)) over the positives and that of log2(1 + exp(s)) over the negatives
    (Bruemmer and du Preez 2006, eq. 7). Cosines are not log-likelihood ratios: calibrate them first.

    >>> cllr([0.0, 0.0], [0.0])
    1.0
    """
    miss = _mean_cost(*checked_scores("positive", positive, positive_weight), -1.0)
    false_accept = _mean_cost(*checked_scores("negative", negative, negative_weight), 1.0)
    return float((miss + false_accept) / (2.0 * np.log(2.0)))


def _mean_cost(scores: np.ndarray, weight: np.ndarray | None, sign: float) -> float:
    """The weighted mean of log(1 + exp(sign * s)), in float64."""
    costs, weights = [], []
    for part in blocks(len(scores)):
        cost = np.logaddexp(0.0, sign * scores[part].astype(float))
        costs.append(float(cost.sum() if weight is None else (cost * weight[part]).sum()))
        weights.append(float(len(cost) if weight is None else weight[part].sum()))
    return math.fsum(costs) / math.fsum(weights)
