"""How a figure follows the two error rates, so that each trial's part in it can be told.

A figure of a DET curve changes, to the first order, by `miss` times the change of the false reject rate plus `accept`
times that of the false accept rate, both at its threshold. A trial's part in the figure, sometimes called its
influence, is its part in these rates. The figure itself, computed without some speakers, moves in the steps of single
trials; these parts do not, so that even a small difference between two systems has a variance that can be trusted.
"""

from __future__ import annotations

from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from .arrays import blocks
from .curves import DetCurve
from .speakers import CurveMetric, Trials

NORMAL = NormalDist()
WINDOW = 2.0  # the slope of a DET curve at a FAR is that between its half and its double


class Sensitivity(NamedTuple):
    threshold: float
    miss: float  # the derivative by the false reject rate
    accept: float  # and by the false accept rate


def sensitivity(metric: CurveMetric, curve: DetCurve, targets: int, non_targets: int) -> Sensitivity | None:
    """The sensitivity of the EER, minDCF, actual DCF or TAR of a curve; None for a metric of another kind.

    - The minimum of a DCF does not move with its threshold, so that only the costs count.
    - The TAR at a FAR f is 1 - FRR(f). Where f changes by d, the threshold moves along the curve: dTAR = -dFRR - b d,
      with b = -dFRR / dFAR at f.
    - The EER is where FRR = FAR. Along a curve of slope -b, dEER = (dFRR + b dFAR) / (1 + b).

    Args:
        metric: a method of `DetCurve`, or a `functools.partial` of one.
        targets, non_targets: the numbers of trials.
    """
    method, options = (metric.func, metric.keywords) if isinstance(metric, partial) else (metric, {})
    if isinstance(metric, partial) and metric.args:
        return None
    if method is DetCurve.eer:
        value, threshold = curve.eer()
        b = _slope(curve, value, targets, non_targets)
        return Sensitivity(threshold, 1.0 / (1.0 + b), b / (1.0 + b))
    if method is DetCurve.tar_at_far:
        _, threshold = metric(curve)
        return Sensitivity(threshold, -1.0, -_slope(curve, options["far"], targets, non_targets))
    if method in (DetCurve.min_dcf, DetCurve.actual_dcf):
        _, threshold = metric(curve)
        return Sensitivity(threshold, *_costs(**options))
    return None


class Parts(NamedTuple):
    """What the trials of each speaker have to do with a figure.

    Attributes:
        of_speakers: (speakers,), the sum of the parts of all trials of each speaker; a trial between two speakers
            belongs to both. The parts of all trials sum to 0.
        unseen: the variance that one more wrongly decided trial of each kind would add. Where few trials are wrong,
            these tell too little about themselves, as in Agresti's and Coull's interval of a share.
    """

    of_speakers: np.ndarray
    unseen: float


def speaker_parts(metric: CurveMetric, curve: DetCurve, trials: Trials) -> Parts | None:
    """The parts in a figure; None without a `sensitivity`."""
    same, targets = trials.same, int(trials.same.sum())
    found = sensitivity(metric, curve, targets, len(same) - targets)
    if found is None:
        return None
    miss, accept = found.miss / targets, found.accept / (len(same) - targets)
    false_accept, false_reject = curve.rates_at(found.threshold)
    of_speakers = np.zeros(trials.speakers)
    for block in blocks(len(same)):
        target, accepted = same[block], trials.scores[block] > found.threshold
        part = np.where(target, miss * (~accepted - false_reject), accept * (accepted - false_accept))
        of_speakers += np.bincount(trials.enrol[block], part, trials.speakers)
        of_speakers += np.bincount(trials.test[block][~target], part[~target], trials.speakers)
    return Parts(of_speakers, miss**2 + 2.0 * accept**2)


def _costs(p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
    return c_miss * p_target, c_fa * (1.0 - p_target)


def _slope(curve: DetCurve, far: float, targets: int, non_targets: int) -> float:
    """-dFRR / dFAR at a FAR. On the axes of a DET plot, normal quantiles, the curve is nearly straight."""
    near, least = min(max(far, 1.0 / non_targets), 0.5), 0.5 / targets

    def missed(at: float) -> float:
        """The normal quantile of the false reject rate at a FAR."""
        return NORMAL.inv_cdf(min(max(1.0 - curve.tar_at_far(at)[0], least), 1.0 - least))

    low, high = max(near / WINDOW, 0.5 / non_targets), near * WINDOW
    high = min(high, 0.98)
    straight = (missed(low) - missed(high)) / (NORMAL.inv_cdf(high) - NORMAL.inv_cdf(low))
    return max(straight, 0.0) * NORMAL.pdf(missed(near)) / NORMAL.pdf(NORMAL.inv_cdf(near))
