"""Thresholds for a wanted false accept rate, and what they do on other trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import flat
from .curves import DetCurve, det_curve
from .intervals import Interval, confidence_intervals
from .speakers import CurveMetric, Progress, TooFewSpeakers


class Threshold(NamedTuple):
    """The threshold for a false accept rate; without an interval if there are too few speakers for one."""

    far: float
    value: float
    interval: Interval | None


class Judged(NamedTuple):
    """The error rates that a threshold gives; without intervals if there are too few speakers for them."""

    false_accept: float
    false_reject: float
    false_accept_interval: Interval | None
    false_reject_interval: Interval | None


def thresholds_at_far(
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    fars: Sequence[float],
    *,
    level: float = 0.95,
    intervals: bool = True,
    progress: Progress = iter,
) -> list[Threshold]:
    """The lowest threshold that accepts at most a share `far` of the non-target trials, for each of the FARs.

    The interval is for the threshold among all speakers of this kind. It is Woodruff's: if [a, b] is the interval of
    the false accept rate at the threshold (`confidence_interval`), its ends are the thresholds for the rates b and a.
    The upper end is at most the largest non-target score, so it is too low where a is below one trial.

    Judge a threshold on other trials, by other speakers (`judge`): on these it looks better than it is.

    Raises:
        ValueError: a FAR is outside (0, 1) or below one non-target trial, or as for `confidence_interval`.

    Source: Woodruff, "Confidence intervals for medians and other position measures", JASA 47 (1952).

    >>> speaker = np.arange(40)
    >>> enrol, test = np.repeat(speaker, 40), np.tile(speaker, 40)
    >>> scores = np.cos(enrol - test)
    >>> (found,) = thresholds_at_far(scores, enrol == test, enrol, test, [0.1])
    >>> found.interval.low < found.value < found.interval.high
    True
    """
    scores, same = flat(scores), flat(same).astype(bool)
    check_fars(fars, int((~same).sum()))
    curve = det_curve(scores[same], scores[~same])
    values = [curve.tar_at_far(far)[1] for far in fars]
    rates = {n: partial(_false_accept, threshold=value) for n, value in enumerate(values)}
    trials = intervals, scores, same, enrol_speaker, test_speaker, level, progress
    found = _intervals(rates, *trials)

    def of(n: int) -> Interval | None:
        if n not in found:
            return None
        low, high = found[n]
        return Interval(curve.tar_at_far(high)[1], curve.tar_at_far(low)[1])

    return [Threshold(far, value, of(n)) for n, (far, value) in enumerate(zip(fars, values))]


def check_fars(fars: Sequence[float], non_targets: int) -> None:
    """Refuse FARs that so many non-target trials cannot tell."""
    for far in fars:
        if not 0.0 < far < 1.0:
            raise ValueError(f"far is {far}: give a false accept rate above 0 and below 1; 1 accepts every trial")
        if far * non_targets < 1 - 1e-9:
            raise ValueError(
                f"a FAR of {far:g} is less than one of {non_targets:,} non-target trials: give a list with "
                f"{int(np.ceil(1 / far - 1e-9)):,} or more of them, or a larger FAR"
            )


def judge(
    thresholds: Sequence[float],
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    level: float = 0.95,
    intervals: bool = True,
    progress: Progress = iter,
) -> list[Judged]:
    """The false accept and false reject rates that thresholds from elsewhere give on these trials, with intervals.

    >>> judge([0.5], [0.9, 0.4, 0.6, 0.1], [True, True, False, False], [*"abab"], [*"abba"])[0][:2]
    (0.5, 0.5)
    """
    scores, same = flat(scores), flat(same).astype(bool)
    curve = det_curve(scores[same], scores[~same])
    trials = intervals, scores, same, enrol_speaker, test_speaker, level, progress
    rates = (_false_accept, _false_reject)
    found = _intervals({(n, r): partial(r, threshold=t) for n, t in enumerate(thresholds) for r in rates}, *trials)
    return [Judged(*curve.rates_at(t), *(found.get((n, r)) for r in rates)) for n, t in enumerate(thresholds)]


def _false_accept(curve: DetCurve, threshold: float) -> tuple[float, float]:
    return curve.rates_at(threshold)[0], threshold


def _false_reject(curve: DetCurve, threshold: float) -> tuple[float, float]:
    return curve.rates_at(threshold)[1], threshold


def _intervals(
    rates: Mapping[Any, CurveMetric],
    wanted: bool,
    scores: np.ndarray,
    same: np.ndarray,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    level: float,
    progress: Progress,
) -> dict[Any, Interval]:
    """The intervals by the keys of the rates; none if they are not wanted or the speakers are too few."""
    if not wanted:
        return {}
    try:
        return confidence_intervals(rates, scores, same, enrol_speaker, test_speaker, level=level, progress=progress)
    except TooFewSpeakers:
        return {}
