"""The DET curve and the error rates that are read off it."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Weights, blocks, check_costs, check_prior, checked_scores

UPSIDE_DOWN = (
    "the EER is above 1/2, which is worse than chance: most likely the positive and the negative scores are swapped, "
    "which eer(positive, negative) takes in this order, or they are distances, which need a minus; "
    "just above 1/2, scores that say nothing do that too"
)


class DetCurve(NamedTuple):
    """The error rates with -inf and each distinct score as the threshold t, in increasing order of t."""

    false_accept: np.ndarray  # share of the negatives above t
    false_reject: np.ndarray  # share of the positives at or below t
    threshold: np.ndarray

    def eer(self) -> tuple[float, float]:
        """As `metrics.eer`."""
        far, frr = self.false_accept, self.false_reject
        # The two rates cross between two thresholds. Like SpeechBrain, consider only scores as thresholds (not -inf),
        # and choose between the two by float32 rates and differences, which matters if they are equally close.
        after = max(bisect_right(range(1, len(far)), 0.0, key=lambda t: frr[t] - far[t]) + 1, 2)
        sides = [after - 1, min(after, len(far) - 1)]
        far32, frr32 = far[sides].astype(np.float32), frr[sides].astype(np.float32)
        held = abs(float(far32[0]) - float(frr32[0]))
        best = sides[1] if float(abs(far32[1] - frr32[1])) < held else sides[0]
        return float(far[best] + frr[best]) / 2, float(self.threshold[best])

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
        """As `metrics.min_dcf`."""
        check_prior("p_target", p_target)
        check_costs(c_miss=c_miss, c_fa=c_fa)
        lowest, best = math.inf, 0
        for part in blocks(len(self.threshold)):
            cost = c_miss * self.false_reject[part] * p_target + c_fa * self.false_accept[part] * (1.0 - p_target)
            first = int(np.argmin(cost))
            if cost[first] < lowest:
                lowest, best = float(cost[first]), part.start + first
        return lowest, float(self.threshold[best])

    def actual_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
        """As `metrics.actual_dcf`."""
        check_prior("p_target", p_target)
        check_costs(c_miss=c_miss, c_fa=c_fa)
        threshold = math.log(c_fa * (1.0 - p_target)) - math.log(c_miss * p_target)
        far, frr = self.rates_at(threshold)
        return c_miss * frr * p_target + c_fa * far * (1.0 - p_target), threshold

    def tar_at_far(self, far: float) -> tuple[float, float]:
        """As `metrics.tar_at_far`."""
        if not 0.0 <= far <= 1.0:
            raise ValueError(f"far is {far}: give a false accept rate between 0 and 1")
        first = int(np.argmax(self.false_accept <= far * (1 + 1e-12)))
        return float(1.0 - self.false_reject[first]), float(self.threshold[first])

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """The false accept and the false reject rate with this threshold, which need not be a score."""
        if math.isnan(threshold):
            raise ValueError("the threshold is nan: give a number, or infinity")
        place = int(np.searchsorted(self.threshold, threshold, side="right")) - 1
        return float(self.false_accept[place]), float(self.false_reject[place])

    def hull(self) -> DetCurve:
        """The corners of the curve's lower convex hull: the best decisions that chance may choose between.

        It is what isotonic regression (pool adjacent violators) of the labels on the scores gives: from one corner to
        the next, a share dp of the positives and dn of the negatives have the log-likelihood ratio log(dp / dn).

        Source: Bruemmer and de Villiers, "The BOSARIS Toolkit" (2013), section 3.
        """
        kept = _lower_hull(self.false_reject, self.false_accept)
        return DetCurve(*(values[kept] for values in self))


def det_curve(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_weight: Weights = None,
    negative_weight: Weights = None,
) -> DetCurve:
    """The detection error tradeoff: the false accept and false reject rates for every threshold.

    Equivalent to ``[((negative > t).mean(), (positive <= t).mean()) for t in unique scores]``, with
    weighted means, preceded by the point (1, 0) at -inf.

    Raises:
        ValueError: there is no positive or no negative score, a score is nan, or weights are of another size or all 0.

    >>> det_curve([0.8, 0.6], [0.6, 0.1]).false_accept
    array([1. , 0.5, 0. , 0. ])
    """
    given = checked_scores("positive", positive, positive_weight), checked_scores("negative", negative, negative_weight)
    (one, one_weight), (other, other_weight) = (_rising(*side) for side in given)
    del given
    same = _merged(one, other)
    room = np.empty(1 + len(same))  # of the scores, and then of the thresholds
    _fill(room[1:], same, one, other)
    weight = None
    if one_weight is not None or other_weight is not None:
        weight = np.empty(len(same))
        _fill(weight, same, 1.0 if one_weight is None else one_weight, 1.0 if other_weight is None else other_weight)
    del one, other, one_weight, other_weight
    last = _last_of_ties(room[1:])
    return DetCurve(*_rates(same, weight, last), _thresholds(room, last))


def _rising(scores: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The scores in increasing order, and their weights."""
    if weight is None:
        return np.sort(scores), None
    order = np.argsort(scores, kind="stable")
    return scores[order], weight[order]


def _merged(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which entries of both, in increasing order, are from `one`; both are in increasing order themselves."""
    from_one = np.zeros(len(one) + len(other), dtype=bool)
    for part in blocks(len(one)):
        place = np.searchsorted(other, one[part])
        from_one[place + np.arange(part.start, part.stop)] = True
    return from_one


def _fill(both: np.ndarray, same: np.ndarray, one: np.ndarray | float, other: np.ndarray | float) -> None:
    both[same] = one
    both[~same] = other


def sorted_curve(scores: np.ndarray, same: np.ndarray) -> DetCurve:
    """The curve from scores in increasing order."""
    last = _last_of_ties(scores)
    return DetCurve(*_rates(same, None, last), np.append(-np.inf, scores[last]))


def _last_of_ties(scores: np.ndarray) -> np.ndarray:
    last = np.ones(len(scores), dtype=bool)
    np.not_equal(scores[1:], scores[:-1], out=last[:-1])
    return last


def _rates(same: np.ndarray, weight: np.ndarray | None, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The false accept and the false reject rates before the first trial and after each that is the last of ties."""
    refused, missed = (np.zeros(1 + np.count_nonzero(last)) for _ in range(2))
    sums, done = [0.0, 0.0], 1
    for part in blocks(len(same)):
        chosen = last[part]
        end = done + int(np.count_nonzero(chosen))
        for side, counts, counted in ((0, refused, ~same[part]), (1, missed, same[part])):
            running = counted.astype(float) if weight is None else np.where(counted, weight[part], 0.0)
            running[0] += sums[side]
            np.cumsum(running, out=running)
            counts[done:end], sums[side] = running[chosen], running[-1]
        done = end
    # subtract counts, not rates: counts are exact, and so FAR = k / n is exact too
    np.subtract(sums[0], refused, out=refused)
    refused /= sums[0]
    missed /= sums[1]
    return refused, missed


def _thresholds(room: np.ndarray, last: np.ndarray) -> np.ndarray:
    """-inf and the scores room[1:] that are the last of ties, in the same memory unless most of it would be empty."""
    room[0], done = -np.inf, 1
    for part in blocks(len(last)):
        chosen = room[1:][part][last[part]]
        room[done : done + len(chosen)] = chosen
        done += len(chosen)
    return room[:done] if 2 * done > len(room) else room[:done].copy()


def eer(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> tuple[float, float]:
    """The equal error rate, as a fraction, and its threshold.

    The threshold is the score at which the false accept and false reject rates are closest; the EER is the mean of the
    two rates there. Equals `speechbrain.utils.metric_stats.EER`, also where two scores are equally close: the rates are
    compared in float32, in which rounding may prefer either, and the lower score is taken if they are equal there too.

    An EER above 1/2 comes with a warning: it is that of swapped arguments, or of distances in the place of scores.

    >>> eer([0.6, 0.7, 0.8, 0.5], [0.4, 0.3, 0.2, 0.55])
    (0.25, 0.5)
    """
    rate, threshold = det_curve(positive, negative, positive_weight, negative_weight).eer()
    if rate > 0.5:
        warnings.warn(UPSIDE_DOWN, stacklevel=2)
    return rate, threshold


def min_dcf(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_weight: Weights = None,
    negative_weight: Weights = None,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> tuple[float, float]:
    """The smallest detection cost c_miss p_miss p_target + c_fa p_fa (1 - p_target), and its threshold.

    It equals `speechbrain.utils.metric_stats.minDCF` if ``c_miss * p_target <= c_fa * (1 - p_target)``, and is, like
    that, not normalised. With other costs the best decision may be to accept every trial, at the threshold -inf, which
    SpeechBrain does not try. NIST's minDCF is this value divided by ``min(c_miss * p_target, c_fa * (1 - p_target))``,
    the cost of the better constant decision.

    >>> min_dcf([0.6, 0.7, 0.8, 0.5], [0.4, 0.3, 0.2, 0.1])
    (0.0, 0.4)
    """
    return det_curve(positive, negative, positive_weight, negative_weight).min_dcf(p_target, c_miss, c_fa)


def tar_at_far(
    positive: ArrayLike,
    negative: ArrayLike,
    positive_weight: Weights = None,
    negative_weight: Weights = None,
    *,
    far: float,
) -> tuple[float, float]:
    """The largest share of positives that is accepted with at most a share `far` of the negatives, and its threshold.

    With fewer than 1/far negatives, not a single false accept is allowed, and the value says little.

    >>> tar_at_far([0.9, 0.7, 0.2, 0.1], [0.8, 0.3, 0.1, 0.0], far=0.25)
    (0.5, 0.3)
    """
    return det_curve(positive, negative, positive_weight, negative_weight).tar_at_far(far)


def _lower_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The positions of the corners of the lower convex hull of points with rising x and falling y.

    A point that is not below the line from its left to its right neighbour is no corner. Such points are removed
    all at once, again and again, for as long as that removes many; the rest is Andrew's monotone chain.
    """
    kept = np.arange(len(x))
    while True:
        corner = np.ones(len(kept), dtype=bool)
        corner[1:-1] = _turns_left(x[kept], y[kept])
        removed = len(kept) - np.count_nonzero(corner)
        kept = kept[corner]
        if 8 * removed < len(kept):
            break
    hull: list[int] = []
    points = list(zip(x[kept].tolist(), y[kept].tolist()))
    for n, (px, py) in enumerate(points):
        while len(hull) > 1:
            (ax, ay), (bx, by) = points[hull[-2]], points[hull[-1]]
            if (bx - ax) * (py - ay) > (by - ay) * (px - ax):
                break
            hull.pop()
        hull.append(n)
    return kept[hull]


def _turns_left(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each point but the first and the last, whether it is below the line from its left to its right neighbour."""
    left_x, left_y = x[1:-1] - x[:-2], y[1:-1] - y[:-2]
    return left_x * (y[2:] - y[:-2]) > left_y * (x[2:] - x[:-2])
