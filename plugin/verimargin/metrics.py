"""Verification metrics of scores: higher is more alike; O(n log n) time and O(n) memory throughout.

A trial is accepted when its score is above the threshold, so tied scores are decided together and their
order never matters. Scores are array-likes or tensors of any shape. A metric takes a weight per trial
too, which is what resampling the speakers (`confidence_interval`) needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Weights = ArrayLike | None  # one per trial


class DetCurve(NamedTuple):
    """Error rates at each distinct score t taken as the threshold, and at -inf, in rising order."""

    false_accept: np.ndarray  # share of the negatives above t
    false_reject: np.ndarray  # share of the positives at or below t
    threshold: np.ndarray

    def eer(self) -> tuple[float, float]:
        """As `metrics.eer`."""
        far, frr = self.false_accept, self.false_reject
        # Between the accepting side and the rejecting side of the crossing. SpeechBrain tries the scores only
        # (not -inf), and its float32 rates and differences decide between the two when they are equally close.
        after = max(int(np.searchsorted(frr[1:] - far[1:], 0.0, side="right")) + 1, 2)
        sides = [after - 1, min(after, len(far) - 1)]
        far32, frr32 = far[sides].astype(np.float32), frr[sides].astype(np.float32)
        held = abs(float(far32[0]) - float(frr32[0]))
        best = sides[1] if float(abs(far32[1] - frr32[1])) < held else sides[0]
        return float(far[best] + frr[best]) / 2, float(self.threshold[best])

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
        """As `metrics.min_dcf`."""
        if not 0.0 < p_target < 1.0:
            raise ValueError(f"p_target is {p_target}: give the prior of a target trial, between 0 and 1")
        cost = c_miss * self.false_reject * p_target + c_fa * self.false_accept * (1.0 - p_target)
        best = int(np.argmin(cost))
        return float(cost[best]), float(self.threshold[best])

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
    """The detection error tradeoff: every pair of error rates that some threshold gives.

    Equivalent to ``[((negative > t).mean(), (positive <= t).mean()) for t in unique scores]``, with
    weighted means, after the point (1, 0) at -inf.

    Raises:
        ValueError: no positive or no negative score, nan in them, weights of another size or all zero.

    >>> det_curve([0.8, 0.6], [0.6, 0.1]).false_accept
    array([1. , 0.5, 0. , 0. ])
    """
    positive, positive_weight = _scores("positive", positive, positive_weight)
    negative, negative_weight = _scores("negative", negative, negative_weight)
    scores = np.concatenate([positive, negative])
    order = np.argsort(scores, kind="stable")
    same = np.arange(len(scores)) < len(positive)
    return _curve(scores[order], same[order], np.concatenate([positive_weight, negative_weight])[order])


def _curve(scores: np.ndarray, same: np.ndarray, weight: np.ndarray) -> DetCurve:
    """The curve of scores in rising order."""
    last = np.append(scores[1:] != scores[:-1], True)  # of each run of ties
    missed = np.append(0.0, np.cumsum(np.where(same, weight, 0.0))[last])
    refused = np.append(0.0, np.cumsum(np.where(same, 0.0, weight))[last])
    # counts are subtracted, not rates: they are exact, and so is FAR = k / n
    false_accept = (refused[-1] - refused) / refused[-1]
    return DetCurve(false_accept, missed / missed[-1], np.append(-np.inf, scores[last]))


def eer(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> tuple[float, float]:
    """Equal error rate, as a fraction, and its threshold.

    The threshold, among the scores, at which false accepts and false rejects are closest, and their mean
    there; the lower threshold if two are equally close. Equals `speechbrain.utils.metric_stats.EER`.

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
    """Smallest detection cost c_miss p_miss p_target + c_fa p_fa (1 - p_target), and its threshold.

    Not normalised by the cost of the better fixed decision, as in `speechbrain.utils.metric_stats.minDCF`,
    whose value it equals; divide by ``min(c_miss * p_target, c_fa * (1 - p_target))`` for NIST's.

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
    """Largest share of positives accepted while at most `far` of the negatives are, and its threshold.

    With fewer than 1/far negatives no false accept is allowed at all, and the value says little.

    >>> tar_at_far([0.9, 0.7, 0.2, 0.1], [0.8, 0.3, 0.1, 0.0], far=0.25)
    (0.5, 0.3)
    """
    return det_curve(positive, negative, positive_weight, negative_weight).tar_at_far(far)


def cllr(
    positive: ArrayLike, negative: ArrayLike, positive_weight: Weights = None, negative_weight: Weights = None
) -> float:
    """Cost of the scores as natural log-likelihood ratios, in bits: 0 is perfect, 1 knows nothing.

    Half the mean of log2(1 + exp(-s)) over the positives and of log2(1 + exp(s)) over the negatives
    (Bruemmer and du Preez 2006, eq. 7). Cosines are no log-likelihood ratios: calibrate them first.

    >>> cllr([0.0, 0.0], [0.0])
    1.0
    """
    positive, positive_weight = _scores("positive", positive, positive_weight)
    negative, negative_weight = _scores("negative", negative, negative_weight)
    miss = np.average(np.logaddexp(0.0, -positive), weights=positive_weight)
    false_accept = np.average(np.logaddexp(0.0, negative), weights=negative_weight)
    return float((miss + false_accept) / (2.0 * np.log(2.0)))


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
    """Percentile interval of a metric, by resampling the speakers and with them all their trials.

    Trials share speakers, so resampling trials would give intervals far too narrow. In each resample a
    speaker drawn k times counts k-fold: a trial of two speakers weighs the product of theirs, one of a
    single speaker that speaker's count. Resamples without a positive or a negative trial are left out.

    Args:
        metric: any function here of (positive, negative, positive_weight, negative_weight, **options);
            of a tuple, the first entry is used.
        scores, same, enrol_speaker, test_speaker: a score, whether it is a target trial, and the two
            speakers, for each trial. (For faces, identities.)
        options: passed on to the metric, e.g. ``far=1e-3``.

    Raises:
        ValueError: sizes differ, fewer than two speakers, a level outside (0, 1), or `same` and the
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
    """`confidence_interval` of several metrics of the DET curve at once, in one metric's time.

    Args:
        metrics: for each name a function of a `DetCurve`, e.g. ``{"EER": DetCurve.eer}``.
        progress: goes through the resamples, such as tqdm does.

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
    """By rising score; speakers as numbers from 0."""

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
        raise ValueError(f"resamples is {resamples}: give 1 at least, better 1000")
    if not len(scores) == len(same) == len(enrol_speaker) == len(test_speaker):
        raise ValueError(
            f"{len(scores)} scores, {len(same)} labels, {len(enrol_speaker)} and {len(test_speaker)} speakers: "
            "give one of each per trial"
        )
    speakers, ids = _numbered(np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)]))
    enrol, test = ids.reshape(2, -1)
    if speakers < 2:
        raise ValueError(f"{speakers} speaker: an interval over speakers needs two at least")
    if (wrong := same != (enrol == test)).any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"trial {i} is labelled {int(same[i])} but compares {enrol_speaker[i]!r} with {test_speaker[i]!r}"
        )
    order = np.argsort(scores, kind="stable")  # once: sorting what is sorted is linear
    return _Trials(scores[order], same[order], enrol[order], test[order], speakers)


def _numbered(names: np.ndarray) -> tuple[int, np.ndarray]:
    """How many distinct names there are, and each one's rank among them; small numbers are not sorted for it."""
    if len(names) and names.dtype.kind in "iu" and names.min() >= 0 and names.max() < len(names):
        used = np.zeros(int(names.max()) + 1, dtype=bool)
        used[names] = True
        return int(used.sum()), (np.cumsum(used) - 1)[names]
    distinct, ranks = np.unique(names, return_inverse=True)
    return len(distinct), ranks


def _resampled(trials: _Trials, resamples: Iterable[int], seed: int) -> Iterator[np.ndarray]:
    """Weights of the trials for each resample of the speakers that has both kinds of trials."""
    random, empty = np.random.default_rng(seed), True
    for _ in resamples:
        count = random.multinomial(trials.speakers, np.full(trials.speakers, 1.0 / trials.speakers))
        enrol, test = count[trials.enrol], count[trials.test]
        weight = np.where(trials.same, enrol, enrol * test).astype(float)
        if weight[trials.same].any() and weight[~trials.same].any():
            empty = False
            yield weight
    if empty:
        raise ValueError("no resample held both target and non-target trials: use more speakers")


def _percentiles(values: list[float], level: float) -> Interval:
    low, high = np.quantile(values, [(1.0 - level) / 2, (1.0 + level) / 2])
    return Interval(float(low), float(high))


def _flat(values: ArrayLike) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values).reshape(-1)


def _scores(name: str, scores: ArrayLike, weight: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    scores = _flat(scores).astype(float)
    if not len(scores):
        raise ValueError(f"there is no {name} score: a metric needs both target and non-target trials")
    if (bad := np.isnan(scores)).any():
        raise ValueError(f"{name} score {int(np.argmax(bad))} is nan: look at that trial's embeddings")
    weight = np.ones(len(scores)) if weight is None else _flat(weight).astype(float)
    if weight.shape != scores.shape or not weight.min() >= 0 or not 0 < weight.sum() < np.inf:
        raise ValueError(f"the {name} weights must be {len(scores)} numbers >= 0, not all 0")
    return scores, weight
