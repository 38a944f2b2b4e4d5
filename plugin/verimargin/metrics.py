"""Verification metrics, for scores of which a higher one means more similar; all take O(n log n) time and O(n) memory.

A trial is accepted if its score is above the threshold, so tied scores are decided alike and their order never
matters. Scores are array-likes or tensors of any shape. Metrics also take one weight per trial, which
`confidence_interval` uses to resample the speakers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Weights = ArrayLike | None  # one per trial
BLOCK = 2**20  # scores that are treated at once


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
        if not 0.0 < p_target < 1.0:
            raise ValueError(f"p_target is {p_target}: give the prior of a target trial, between 0 and 1")
        lowest, best = math.inf, 0
        for part in _blocks(len(self.threshold)):
            cost = c_miss * self.false_reject[part] * p_target + c_fa * self.false_accept[part] * (1.0 - p_target)
            first = int(np.argmin(cost))
            if cost[first] < lowest:
                lowest, best = float(cost[first]), part.start + first
        return lowest, float(self.threshold[best])

    def tar_at_far(self, far: float) -> tuple[float, float]:
        """As `metrics.tar_at_far`."""
        if not 0.0 <= far <= 1.0:
            raise ValueError(f"far is {far}: give a false accept rate between 0 and 1")
        first = int(np.argmax(self.false_accept <= far * (1 + 1e-12)))
        return float(1.0 - self.false_reject[first]), float(self.threshold[first])


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
    given = _scores("positive", positive, positive_weight), _scores("negative", negative, negative_weight)
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
    for part in _blocks(len(one)):
        place = np.searchsorted(other, one[part])
        from_one[place + np.arange(part.start, part.stop)] = True
    return from_one


def _fill(both: np.ndarray, same: np.ndarray, one: np.ndarray | float, other: np.ndarray | float) -> None:
    both[same] = one
    both[~same] = other


def _curve(scores: np.ndarray, same: np.ndarray, weight: np.ndarray | None) -> DetCurve:
    """The curve from scores in increasing order; without weights, each trial counts 1."""
    last = _last_of_ties(scores)
    return DetCurve(*_rates(same, weight, last), np.append(-np.inf, scores[last]))


def _last_of_ties(scores: np.ndarray) -> np.ndarray:
    last = np.ones(len(scores), dtype=bool)
    np.not_equal(scores[1:], scores[:-1], out=last[:-1])
    return last


def _rates(same: np.ndarray, weight: np.ndarray | None, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The false accept and the false reject rates before the first trial and after each that is the last of ties."""
    refused, missed = (np.zeros(1 + np.count_nonzero(last)) for _ in range(2))
    sums, done = [0.0, 0.0], 1
    for part in _blocks(len(same)):
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
    for part in _blocks(len(last)):
        chosen = room[1:][part][last[part]]
        room[done : done + len(chosen)] = chosen
        done += len(chosen)
    return room[:done] if 2 * done > len(room) else room[:done].copy()


def _blocks(length: int) -> Iterator[slice]:
    """Consecutive parts of arrays of this length, so that what is computed from a part takes little memory."""
    return (slice(first, min(first + BLOCK, length)) for first in range(0, length, BLOCK))


def eer(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> tuple[float, float]:
    """The equal error rate, as a fraction, and its threshold.

    The threshold is the score at which the false accept and false reject rates are closest, the lower one if two are
    equally close; the EER is the mean of the two rates there. Equals `speechbrain.utils.metric_stats.EER`.

    >>> eer([0.6, 0.7, 0.8, 0.5], [0.4, 0.3, 0.2, 0.55])
    (0.25, 0.5)
    """
    return det_curve(positive, negative, positive_weight, negative_weight).eer()


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

    It equals `speechbrain.utils.metric_stats.minDCF` and is, like that, not normalised. NIST's minDCF is this value
    divided by ``min(c_miss * p_target, c_fa * (1 - p_target))``, the cost of the better constant decision.

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


def cllr(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> float:
    """The cost, in bits, of scores that are natural log-likelihood ratios: 0 is perfect, 1 carries no information.

    Half the sum of the mean of log2(1 + exp(-s)) over the positives and that of log2(1 + exp(s)) over the negatives
    (Bruemmer and du Preez 2006, eq. 7). Cosines are not log-likelihood ratios: calibrate them first.

    >>> cllr([0.0, 0.0], [0.0])
    1.0
    """
    miss = _mean_cost(*_scores("positive", positive, positive_weight), -1.0)
    false_accept = _mean_cost(*_scores("negative", negative, negative_weight), 1.0)
    return float((miss + false_accept) / (2.0 * np.log(2.0)))


def _mean_cost(scores: np.ndarray, weight: np.ndarray | None, sign: float) -> float:
    """The weighted mean of log(1 + exp(sign * s)), in float64."""
    costs, weights = [], []
    for part in _blocks(len(scores)):
        cost = np.logaddexp(0.0, sign * scores[part].astype(float))
        costs.append(float(cost.sum() if weight is None else (cost * weight[part]).sum()))
        weights.append(float(len(cost) if weight is None else weight[part].sum()))
    return math.fsum(costs) / math.fsum(weights)


class Interval(NamedTuple):
    low: float
    high: float


def confidence_interval(
    metric: Callable,
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Interval:
    """The percentile interval of a metric, from resampling the speakers together with their trials.

    Trials share speakers, so resampling trials would make the intervals far too narrow. In each resample, the weight
    of a trial of two speakers is the product of the numbers of times that they were drawn; the weight of a trial of
    one speaker is the number of times that this speaker was drawn. Resamples without a positive or without a negative
    trial are left out.

    Args:
        metric: a function (positive, negative, positive_weight, negative_weight, **options) of this module; if it
            returns a tuple, the first entry is used.
        scores, same, enrol_speaker, test_speaker: for each trial its score, whether it is a target trial, and its two
            speakers (for faces, identities).
        options: passed on to the metric, e.g. ``far=1e-3``.

    Raises:
        ValueError: the sizes differ, there are fewer than two speakers, the level is outside (0, 1), or `same` and the
            speakers contradict each other.
    """
    values = []
    trials = _sorted_trials(scores, same, enrol_speaker, test_speaker, level, resamples)
    for weight in _resampled(trials, range(resamples), seed):
        scores, same = trials.scores, trials.same
        value = metric(scores[same], scores[~same], weight[same], weight[~same], **options)
        values.append(value[0] if isinstance(value, tuple) else value)
    return _percentiles(values, level)


def confidence_intervals(
    metrics: Mapping[str, Callable[[DetCurve], tuple[float, float]]],
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Interval]:
    """`confidence_interval` for several metrics of the DET curve at once, in the time of one.

    Args:
        metrics: functions of a `DetCurve` by name, e.g. ``{"EER": DetCurve.eer}``.
        progress: wraps the range of resamples, as tqdm does.

    >>> speaker = np.array([0, 1, 2, 3])
    >>> enrol, test = np.repeat(speaker, 4), np.tile(speaker, 4)
    >>> confidence_intervals({"EER": DetCurve.eer}, enrol == test, enrol == test, enrol, test, resamples=20)
    {'EER': Interval(low=0.0, high=0.0)}
    """
    values: dict[str, list[float]] = {name: [] for name in metrics}
    trials = _sorted_trials(scores, same, enrol_speaker, test_speaker, level, resamples)
    for weight in _resampled(trials, progress(range(resamples)), seed):
        curve = _curve(trials.scores, trials.same, weight)
        for name, metric in metrics.items():
            values[name].append(metric(curve)[0])
    return {name: _percentiles(resampled, level) for name, resampled in values.items()}


class _Trials(NamedTuple):
    """Trials in increasing order of their scores, with speakers numbered from 0."""

    scores: np.ndarray
    same: np.ndarray
    enrol: np.ndarray
    test: np.ndarray
    speakers: int


def _sorted_trials(
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
    level: float,
    resamples: int,
) -> _Trials:
    scores, same = _flat(scores), _flat(same).astype(bool)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}: give at least 1, preferably 1000")
    if not len(scores) == len(same) == len(enrol_speaker) == len(test_speaker):
        raise ValueError(
            f"{len(scores)} scores, {len(same)} labels, {len(enrol_speaker)} and {len(test_speaker)} speakers: "
            "give one of each per trial"
        )
    speakers, ids = _numbered(np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)]))
    enrol, test = ids.reshape(2, -1)
    if speakers < 2:
        raise ValueError(f"{speakers} speaker: an interval over speakers needs at least two")
    if (wrong := same != (enrol == test)).any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"trial {i} is labelled {int(same[i])} but compares {enrol_speaker[i]!r} with {test_speaker[i]!r}"
        )
    order = np.argsort(scores, kind="stable")  # once, because sorting sorted scores takes linear time
    return _Trials(scores[order], same[order], enrol[order], test[order], speakers)


def _numbered(names: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of distinct names, and the rank of each among them; small integers are ranked without sorting."""
    if len(names) and names.dtype.kind in "iu" and names.min() >= 0 and names.max() < len(names):
        used = np.zeros(int(names.max()) + 1, dtype=bool)
        used[names] = True
        return int(used.sum()), (np.cumsum(used) - 1)[names]
    distinct, ranks = np.unique(names, return_inverse=True)
    return len(distinct), ranks


def _resampled(trials: _Trials, resamples: Iterable[int], seed: int) -> Iterator[np.ndarray]:
    """The weights of the trials, for each resample of the speakers that has both kinds of trials."""
    random, empty = np.random.default_rng(seed), True
    for _ in resamples:
        count = random.multinomial(trials.speakers, np.full(trials.speakers, 1.0 / trials.speakers))
        enrol, test = count[trials.enrol], count[trials.test]
        weight = np.where(trials.same, enrol, enrol * test).astype(float)
        if weight[trials.same].any() and weight[~trials.same].any():
            empty = False
            yield weight
    if empty:
        raise ValueError("no resample had both target and non-target trials: use more speakers")


def _percentiles(values: list[float], level: float) -> Interval:
    low, high = np.quantile(values, [(1.0 - level) / 2, (1.0 + level) / 2])
    return Interval(float(low), float(high))


def _flat(values: ArrayLike) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values).reshape(-1)


def _scores(name: str, scores: ArrayLike, weight: ArrayLike | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The scores, in float32 if they are given so and else in float64, and their weights, if there are any."""
    scores = _flat(scores)
    scores = scores.astype(np.float32 if scores.dtype == np.float32 else float, copy=False)
    if not len(scores):
        raise ValueError(f"there is no {name} score: a metric needs both target and non-target trials")
    if (bad := np.isnan(scores)).any():
        raise ValueError(f"{name} score {int(np.argmax(bad))} is nan: look at that trial's embeddings")
    if weight is None:
        return scores, None
    weight = _flat(weight).astype(float, copy=False)
    if weight.shape != scores.shape or not weight.min() >= 0 or not 0 < weight.sum() < np.inf:
        raise ValueError(f"the {name} weights must be {len(scores)} numbers >= 0, not all 0")
    return scores, weight
