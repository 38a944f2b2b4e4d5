"""Whether one system is better than another on the same trials, over speakers and over repeated trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import student
from .curves import DetCurve, sorted_curve
from .intervals import INVERTED, PERFECT, Interval, check_level
from .sensitivity import speaker_parts
from .speakers import CurveMetric, Progress, TooFewSpeakers, Trials, grouped, jackknife, jackknife_variance, values_of
from .trainings import Trainings, Variance, rows, variance_of_difference

LEAST_SPEAKERS = 3
LEAST_FREEDOM = 2.0  # of the variance over speakers


class Difference(NamedTuple):
    """The difference of a figure between two systems, and how well it is known."""

    value: float
    error: float  # the standard error; 0 if no speaker makes a difference, of those that were seen
    freedom: float  # degrees of freedom of the error
    speakers: int
    largest: float  # the largest difference that the figure allows

    @property
    def p_value(self) -> float:
        """The probability of so large a difference, in either direction, between two equally good systems."""
        return student.two_sided(self.value / self.error, self.freedom) if self.error > 0 else 1.0

    def interval(self, level: float = 0.95) -> Interval:
        """The interval value +- t error; without an error, what so many speakers without a difference leave open."""
        if self.error > 0:
            half = student.quantile(level, self.freedom) * self.error
        else:  # Wilson's interval of a share of 0
            part = student.quantile(level, self.speakers - 1.0) ** 2 / self.speakers
            half = self.largest * part / (1.0 + part)
        return Interval(max(self.value - half, -self.largest), min(self.value + half, self.largest))


def differences(
    metrics: Mapping[str, CurveMetric],
    scores: ArrayLike,
    other_scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    progress: Progress = iter,
) -> dict[str, Difference]:
    """What each metric gains from `other_scores` to `scores` of the same trials: a paired comparison.

    The variance over speakers is S / (S - 1) sum_s r_s^2, with r_s the sum of the parts (`sensitivity`) in the
    difference of all trials of speaker s, and what one more wrong decision of each kind would add to it, which counts
    where few are wrong. For metrics other than the EER, the DCFs and the TAR it is that of the jackknife, which is up
    to twice too large: what belongs to a pair of speakers rather than to one of them is counted for both (Efron and
    Stein, 1981).

    With repeated trainings of each system, the difference is that of their means, and its variance is over speakers
    and trainings together (`trainings`). With one training of each, the training's randomness is not in it.

    Args:
        scores, other_scores: (trials,), or (trainings, trials); the two may have different numbers of trainings.
        same, enrol_speaker, test_speaker: for each trial whether it is a target trial, and its two speakers (for
            faces, identities).
        progress: wraps the range of groups that the jackknife leaves out, as tqdm does.

    Raises:
        ValueError: the sizes differ, or `same` and the speakers contradict each other.
        TooFewSpeakers: there are fewer than three speakers, or too few for the jackknife.

    >>> speaker = np.arange(40)
    >>> enrol, test = np.repeat(speaker, 40), np.tile(speaker, 40)
    >>> good = (enrol == test) + 0.1 * np.cos(enrol * test)
    >>> bad = (enrol == test) + 0.9 * np.cos(enrol * test)
    >>> differences({"EER": DetCurve.eer}, good, bad, enrol == test, enrol, test)["EER"].p_value < 0.001
    True
    """
    sides = [[grouped(row, same, enrol_speaker, test_speaker) for row in rows(s)] for s in (scores, other_scores)]
    speakers = sides[0][0].speakers
    if speakers < LEAST_SPEAKERS:
        raise TooFewSpeakers(f"{speakers} speakers are too few for a difference: it needs at least {LEAST_SPEAKERS}")
    curves = [[sorted_curve(trials.scores, trials.same) for trials in side] for side in sides]
    found = {}
    for name, metric in metrics.items():
        systems, variance = _effects(metric, curves, sides, progress)
        squared, freedom = variance_of_difference(systems, variance)
        value, largest = systems[0].mean - systems[1].mean, abs(metric(PERFECT)[0] - metric(INVERTED)[0])
        found[name] = Difference(value, squared**0.5, freedom, speakers, largest)
    return found


def difference_intervals(
    metrics: Mapping[str, CurveMetric],
    scores: ArrayLike,
    other_scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    level: float = 0.95,
    progress: Progress = iter,
) -> dict[str, Interval]:
    """The intervals of `differences`. One that does not hold 0 tells the two systems apart.

    It is much narrower than the two systems' own intervals suggest, because both find the same speakers hard.

    >>> speaker = np.arange(40)
    >>> enrol, test = np.repeat(speaker, 40), np.tile(speaker, 40)
    >>> good = (enrol == test) + 0.1 * np.cos(enrol * test)
    >>> bad = (enrol == test) + 0.9 * np.cos(enrol * test)
    >>> difference_intervals({"EER": DetCurve.eer}, good, bad, enrol == test, enrol, test)["EER"].high < 0
    True
    """
    check_level(level)
    found = differences(metrics, scores, other_scores, same, enrol_speaker, test_speaker, progress=progress)
    return {name: difference.interval(level) for name, difference in found.items()}


def _effects(
    metric: CurveMetric, curves: list[list[DetCurve]], sides: list[list[Trials]], progress: Progress
) -> tuple[list[Trainings], Variance]:
    """What the speakers do to a figure of both systems, and the function that takes its variance."""
    figures = [np.array([metric(curve)[0] for curve in side]) for side in curves]
    parts = [[speaker_parts(metric, *pair) for pair in zip(*side)] for side in zip(curves, sides)]
    if any(part is None for side in parts for part in side):
        left_out = [[jackknife(values_of({"": metric}), t, progress)[1][0] for t in side] for side in sides]
        return [Trainings(f, np.array(effects)) for f, effects in zip(figures, left_out)], jackknife_variance
    known = [[part for part in side if part] for side in parts]
    systems = [
        Trainings(f, np.array([p.of_speakers for p in side]), np.array([p.unseen for p in side]))
        for f, side in zip(figures, known)
    ]
    return systems, over_speakers


def over_speakers(parts: np.ndarray) -> tuple[float, float]:
    """The variance of the sum of all trials' parts, from the sums of each speaker, and its degrees of freedom."""
    number, squares = len(parts), parts**2
    total = float(squares.sum())
    spread = float((squares**2).sum()) - total**2 / number
    freedom = 2.0 * total**2 / spread if spread > 0 else number
    return number / (number - 1) * total, max(min(freedom, number - 1.0), LEAST_FREEDOM)
