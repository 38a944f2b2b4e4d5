"""Intervals for the values of metrics, over speakers or other identities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import flat
from .curves import DetCurve, sorted_curve

Progress = Callable[[range], Iterable[int]]
GROUPS = 10  # of speakers; of more and smaller ones, a figure such as the EER jumps between few values
DIVISIONS = 4  # into groups, so that little depends on who is with whom

CurveMetric = Callable[[DetCurve], tuple[float, float]]
# A system without errors and one that is always wrong: between them lie all values of a metric, at any threshold.
PERFECT = DetCurve(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([-np.inf, -np.inf, np.inf]))
INVERTED = DetCurve(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]), np.array([-np.inf, -np.inf, np.inf]))


class Interval(NamedTuple):
    low: float
    high: float


class TooFewSpeakers(ValueError):
    """There is no interval: without some of the speakers, no target or no non-target trials remain."""


def confidence_interval(
    metric: Callable,
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    level: float = 0.95,
    **options: Any,
) -> Interval:
    """An interval for the value of a metric on all speakers of this kind, of which the trials hold a sample.

    Trials share speakers, so intervals from the number of trials would be far too narrow. The speakers are divided
    into ten groups, at random but always in the same way, and the metric is computed again without the trials of each
    group in turn: the delete-a-group jackknife, of which four divisions are averaged. Its variance v gives a metric of
    value p the effective number of trials n = p (1 - p) / v, as Korn and Graubard (1998) do for surveys. The interval
    is Wilson's for n trials, with the quantile of Student's t distribution. Its degrees of freedom are Satterthwaite's,
    fewer if a few speakers determine the value. For a p of 0 or 1, n is the number of speakers.

    95 % intervals of the EER, the minDCF and the TAR hold the true value in 92 % to 99 % of simulated cases with 40 and
    with 150 speakers, and in 84 % to 99 % with ten (`benchmarks/intervals.py`).

    Args:
        metric: a function (positive, negative, **options) of this module; if it returns a tuple, the first entry is
            used.
        scores, same, enrol_speaker, test_speaker: for each trial its score, whether it is a target trial, and its two
            speakers (for faces, identities).
        options: passed on to the metric, e.g. ``far=1e-3``.

    Raises:
        ValueError: the sizes differ, the level is outside (0, 1), or `same` and the speakers contradict each other.
        TooFewSpeakers: without some group of speakers, no target or no non-target trials remain.
    """

    def value(positive: ArrayLike, negative: ArrayLike) -> float:
        result = metric(positive, negative, **options)
        return result[0] if isinstance(result, tuple) else result

    trials = _grouped(scores, same, enrol_speaker, test_speaker, level)
    (whole,), (left_out,) = _jackknife(lambda scores, same: [value(scores[same], scores[~same])], trials, iter)
    ends = value([np.inf], [-np.inf]), value([-np.inf], [np.inf])
    return _wilson(whole, left_out, ends, trials.speakers, level)


def confidence_intervals(
    metrics: Mapping[str, CurveMetric],
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    level: float = 0.95,
    progress: Progress = iter,
) -> dict[str, Interval]:
    """`confidence_interval` for several metrics of the DET curve at once, in the time of one.

    Args:
        metrics: functions of a `DetCurve` by name, e.g. ``{"EER": DetCurve.eer}``.
        progress: wraps the range of groups that are left out, as tqdm does.

    >>> speaker = np.arange(40)
    >>> enrol, test = np.repeat(speaker, 40), np.tile(speaker, 40)
    >>> confidence_intervals({"EER": DetCurve.eer}, enrol == test, enrol == test, enrol, test)["EER"].low
    0.0
    """
    trials = _grouped(scores, same, enrol_speaker, test_speaker, level)
    found = zip(*_jackknife(_values_of(metrics), trials, progress))
    return {
        name: _wilson(value, left_out, (metric(PERFECT)[0], metric(INVERTED)[0]), trials.speakers, level)
        for (name, metric), (value, left_out) in zip(metrics.items(), found)
    }


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
    """Intervals for what each metric gains from `other_scores` to `scores` of the same trials: a paired comparison.

    The interval is d +- t sqrt(v), for the difference d of the two values and its jackknife variance v as in
    `confidence_interval`. One that does not hold 0 tells the two systems apart. It is much narrower than the two
    systems' own intervals suggest, because both find the same speakers hard, and still wider than it has to be: two
    equally good systems are told apart in fewer than 5 % of the cases.

    >>> speaker = np.arange(40)
    >>> enrol, test = np.repeat(speaker, 40), np.tile(speaker, 40)
    >>> good = (enrol == test) + 0.1 * np.cos(enrol * test)
    >>> bad = (enrol == test) + 0.9 * np.cos(enrol * test)
    >>> difference_intervals({"EER": DetCurve.eer}, good, bad, enrol == test, enrol, test)["EER"].high < 0
    True
    """
    sides = [_grouped(s, same, enrol_speaker, test_speaker, level) for s in (scores, other_scores)]
    (values, left_out), (others, others_left_out) = (_jackknife(_values_of(metrics), t, progress) for t in sides)
    intervals = {}
    for n, (name, metric) in enumerate(metrics.items()):
        d, spread = values[n] - others[n], abs(metric(PERFECT)[0] - metric(INVERTED)[0])
        variance, freedom = _variance(left_out[n] - others_left_out[n])
        if variance > 0:
            half = _student(level, freedom) * variance**0.5
        else:  # no speaker makes a difference, of those that were seen
            half = spread * _wilson(0.0, 0.0 * left_out[n], (0.0, 1.0), sides[0].speakers, level).high
        intervals[name] = Interval(max(d - half, -spread), min(d + half, spread))
    return intervals


class _Trials(NamedTuple):
    """Trials in increasing order of their scores, with speakers numbered from 0."""

    scores: np.ndarray
    same: np.ndarray
    enrol: np.ndarray
    test: np.ndarray
    groups: np.ndarray  # (divisions, speakers): the group of each speaker

    @property
    def speakers(self) -> int:
        return self.groups.shape[1]

    def without_each_group(self, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The scores and labels that remain without each group of each division.

        Raises:
            TooFewSpeakers: without some group there are no target or no non-target trials.
        """
        number = int(self.groups.max()) + 1
        for step in progress(range(len(self.groups) * number)):
            division, group = divmod(step, number)
            left = self.groups[division] == group
            kept = ~(left[self.enrol] | left[self.test])
            same = self.same[kept]
            if same.all() or not same.any():
                raise TooFewSpeakers(
                    f"{self.speakers} speakers are too few for an interval: without {int(left.sum())} of them there "
                    f"are no {'non-target' if len(same) and same[0] else 'target'} trials"
                )
            yield self.scores[kept], same


def _grouped(
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    level: float,
) -> _Trials:
    scores, same = flat(scores), flat(same).astype(bool)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as 0.95")
    if not len(scores) == len(same) == len(enrol_speaker) == len(test_speaker):
        raise ValueError(
            f"{len(scores)} scores, {len(same)} labels, {len(enrol_speaker)} and {len(test_speaker)} speakers: "
            "give one of each per trial"
        )
    if (bad := np.isnan(scores)).any():
        raise ValueError(f"score {int(np.argmax(bad))} is nan: look at that trial's embeddings")
    speakers, ids = _numbered(np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)]))
    enrol, test = ids.reshape(2, -1)
    if speakers < 2:
        raise TooFewSpeakers(f"{speakers} speaker: an interval over speakers needs several")
    if (wrong := same != (enrol == test)).any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"trial {i} is labelled {int(same[i])} but compares {enrol_speaker[i]!r} with {test_speaker[i]!r}"
        )
    order = np.argsort(scores, kind="stable")  # once: what is left of sorted scores is sorted
    random, divisions = np.random.default_rng(0), DIVISIONS if speakers > GROUPS else 1
    groups = np.array([random.permutation(speakers) % GROUPS for _ in range(divisions)])
    return _Trials(scores[order], same[order], enrol[order], test[order], groups)


def _numbered(names: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of distinct names, and the rank of each among them; small integers are ranked without sorting."""
    if len(names) and names.dtype.kind in "iu" and names.min() >= 0 and names.max() < len(names):
        used = np.zeros(int(names.max()) + 1, dtype=bool)
        used[names] = True
        return int(used.sum()), (np.cumsum(used) - 1)[names]
    distinct, ranks = np.unique(names, return_inverse=True)
    return len(distinct), ranks


def _jackknife(
    values: Callable[[np.ndarray, np.ndarray], list[float]], trials: _Trials, progress: Progress
) -> tuple[list[float], np.ndarray]:
    """The values for the scores and labels of all trials, and those without each group, (values, divisions, groups)."""
    left_out = np.array([values(scores, same) for scores, same in trials.without_each_group(progress)])
    return values(trials.scores, trials.same), left_out.T.reshape(left_out.shape[1], len(trials.groups), -1)


def _values_of(metrics: Mapping[str, CurveMetric]) -> Callable[[np.ndarray, np.ndarray], list[float]]:
    """The values of the metrics as a function of scores, in increasing order, and labels."""

    def values(scores: np.ndarray, same: np.ndarray) -> list[float]:
        curve = sorted_curve(scores, same)
        return [metric(curve)[0] for metric in metrics.values()]

    return values


def _variance(left_out: np.ndarray) -> tuple[float, float]:
    """The jackknife's variance, averaged over the divisions, and its degrees of freedom.

    These are 2 v^2 / var(v), Satterthwaite's rule, as for one division.

    Args:
        left_out: (divisions, groups), the values without each group.
    """
    groups = left_out.shape[1]
    squares = (left_out - left_out.mean(1, keepdims=True)) ** 2
    total = float(squares.sum(1).mean())
    spread = float((squares**2).sum(1).mean()) - total**2 / groups
    freedom = 2.0 * total**2 / spread if spread > 0 else groups
    return (groups - 1) / groups * total, min(max(freedom, 3.0), groups - 1.0)


def _wilson(value: float, left_out: np.ndarray, ends: tuple[float, float], speakers: int, level: float) -> Interval:
    """The interval of `confidence_interval`; `ends` are the metric's best and worst value."""
    best, worst = ends
    if best == worst:  # such as the TAR at a FAR of 1
        return Interval(best, best)
    variance, freedom = _variance(left_out)
    if not np.isfinite(worst):  # such as Cllr: a share of a very large whole, as the Poisson distribution is
        worst = best + 1e6 * max(value - best, variance**0.5, 1e-300)
    p, variance = (value - best) / (worst - best), variance / (worst - best) ** 2
    n = p * (1.0 - p) / variance if variance > 0 and 0 < p < 1 else float(speakers)
    t = _student(level, freedom)

    def bound(sign: float) -> float:
        centre, half = p + t**2 / (2.0 * n), t * (p * (1.0 - p) / n + t**2 / (4.0 * n**2)) ** 0.5
        return (centre + sign * half) / (1.0 + t**2 / n)

    low, high = bound(-1.0) if p > 0 else 0.0, bound(1.0) if p < 1 else 1.0
    return Interval(*sorted((best + low * (worst - best), best + high * (worst - best))))


def _student(level: float, freedom: float) -> float:
    """The two-sided quantile of Student's t distribution (Cornish-Fisher, Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
