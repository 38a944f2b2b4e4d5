"""Verification metrics, for scores of which a higher one means more similar; all take O(n log n) time and O(n) memory.

A trial is accepted if its score is above the threshold, so tied scores are decided alike and their order never
matters. Scores are array-likes or tensors of any shape. Metrics also take one weight per trial.
"""

from .curves import DetCurve, det_curve, eer, min_dcf, tar_at_far
from .intervals import Interval, confidence_interval, confidence_intervals
from .likelihood_ratios import actual_dcf, cllr, min_cllr
from .paired import Difference, difference_intervals, differences
from .speakers import CurveMetric, TooFewSpeakers
from .thresholds import Judged, Threshold, check_fars, judge, thresholds_at_far

__all__ = [
    "CurveMetric",
    "DetCurve",
    "Difference",
    "Interval",
    "Judged",
    "Threshold",
    "TooFewSpeakers",
    "actual_dcf",
    "check_fars",
    "cllr",
    "confidence_interval",
    "confidence_intervals",
    "det_curve",
    "difference_intervals",
    "differences",
    "eer",
    "judge",
    "min_cllr",
    "min_dcf",
    "tar_at_far",
    "thresholds_at_far",
]
