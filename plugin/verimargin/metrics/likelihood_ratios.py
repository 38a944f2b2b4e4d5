"""How good scores are as log-likelihood ratios."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Weights, blocks, checked_scores
from .curves import DetCurve, det_curve


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


def min_cllr(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> float:
    """The smallest `cllr` that any increasing function of the scores has: what is lost by discrimination alone.

    The best such function is isotonic regression's, by pool adjacent violators. ``cllr - min_cllr`` is what is lost by
    the calibration (Bruemmer and du Preez 2006, section 6).

    >>> min_cllr([0.9, 0.8], [0.2, 0.1]), min_cllr([0.5], [0.5])
    (0.0, 1.0)
    """
    return cllr_of_hull(det_curve(positive, negative, positive_weight, negative_weight).hull())


def cllr_of_hull(hull: DetCurve) -> float:
    """The Cllr of scores that are the log-likelihood ratios of the curve's `hull`."""
    dp, dn = np.diff(hull.false_reject), -np.diff(hull.false_accept)
    both = (dp > 0) & (dn > 0)  # scores of one kind alone cost nothing
    dp, dn = dp[both], dn[both]
    return float((dp * np.log1p(dn / dp) + dn * np.log1p(dp / dn)).sum() / (2.0 * np.log(2.0)))


def actual_dcf(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_weight: Weights = None,
    negative_weight: Weights = None,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> tuple[float, float]:
    """The detection cost of natural log-likelihood ratios at the threshold that Bayes' rule gives, and that threshold.

    The cost is `min_dcf`'s, at the threshold log(c_fa (1 - p_target) / (c_miss p_target)), which needs no trials to
    be chosen. It is as small as the minDCF if the scores are well calibrated there.

    >>> actual_dcf([8.0, 6.0, 5.0, 1.0], [-3.0, 0.0], p_target=0.01)
    (0.0025, 4.59511985013459)
    """
    curve = det_curve(positive, negative, positive_weight, negative_weight)
    return curve.actual_dcf(p_target, c_miss, c_fa)
