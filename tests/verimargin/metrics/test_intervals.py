import math

import numpy as np
import pytest
from small_scores import trials
from verimargin import metrics
from verimargin.metrics import DetCurve


def test_interval_is_wider_than_one_over_trials_and_does_not_depend_on_their_order():
    score, same, enrol, test = trials()
    interval = metrics.confidence_interval(metrics.eer, score, same, enrol, test)
    value = metrics.eer(score[same], score[~same])[0]
    assert 0 <= interval.low < value < interval.high <= 1
    shuffled = np.random.default_rng(1).permutation(len(score))
    moved = metrics.confidence_interval(metrics.eer, score[shuffled], same[shuffled], enrol[shuffled], test[shuffled])
    assert moved == pytest.approx(interval)
    random = np.random.default_rng(2)
    by_trial = []
    for _ in range(300):
        drawn = random.integers(len(score), size=len(score))
        by_trial.append(metrics.eer(score[drawn][same[drawn]], score[drawn][~same[drawn]])[0])
    assert interval.high - interval.low > 1.2 * np.subtract(*np.quantile(by_trial, [0.975, 0.025]))


COVERED = {
    "EER": DetCurve.eer,
    "minDCF": lambda curve: curve.min_dcf(0.05),
    "TAR": lambda curve: curve.tar_at_far(0.05),
}


def test_intervals_cover_the_true_values_as_often_as_they_say():
    """Percentiles of resampled speakers covered them in 0.48 to 0.83 of the cases; benchmarks/intervals.py has more."""
    many = [metrics.det_curve(s[same], s[~same]) for s, same, *_ in (trials(200, 4, 0.5, s) for s in range(1000, 1005))]
    hits = dict.fromkeys(COVERED, 0)
    for seed in range(60):
        intervals = metrics.confidence_intervals(COVERED, *trials(12, 4, 0.5, seed))
        for name, metric in COVERED.items():
            low, high = intervals[name]
            hits[name] += low <= np.mean([metric(curve)[0] for curve in many]) <= high
    assert min(hits.values()) >= 52  # of 57 expected; 3 standard deviations less


def test_intervals_of_a_proportion_of_speakers_are_wilsons():
    """One target trial for each of ten speakers, two of them refused: the textbook's interval, with t for z."""
    speaker = np.arange(10)
    enrol, test = np.append(speaker, speaker), np.append(speaker, np.roll(speaker, 1))
    same = enrol == test
    scores = np.where(same, np.where(enrol < 2, 0.0, 2.0), 1.0)
    interval = metrics.confidence_interval(metrics.tar_at_far, scores, same, enrol, test, far=0.0)
    # the jackknife's variance is p (1 - p) / (S - 1), with 8.9 degrees of freedom
    p, n, t = 0.2, 9.0, 2.2667
    centre, half = p + t**2 / (2 * n), t * math.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    expected = [1 - (centre + half) / (1 + t**2 / n), 1 - (centre - half) / (1 + t**2 / n)]
    assert tuple(interval) == pytest.approx(expected, abs=1e-3)


def test_no_error_among_few_speakers_is_no_proof():
    """All resamples of a perfect list are perfect: the old interval was [0, 0]."""
    speaker = np.arange(12)
    enrol, test = np.repeat(speaker, 12), np.tile(speaker, 12)
    same = enrol == test
    low, high = metrics.confidence_interval(metrics.eer, same, same, enrol, test)
    assert low == 0
    assert 0.2 < high < 0.4  # 3 / 12 by the rule of three
    low, high = metrics.confidence_interval(metrics.tar_at_far, same, same, enrol, test, far=0.01)
    assert 0.6 < low < 0.8
    assert high == 1
    assert metrics.confidence_interval(metrics.min_dcf, same, same, enrol, test).high < 0.01 * 0.4


def test_the_interval_of_a_metric_that_has_one_value():
    score, same, enrol, test = trials()
    assert metrics.confidence_interval(metrics.tar_at_far, score, same, enrol, test, far=1.0) == (1.0, 1.0)


def test_the_interval_of_the_cllr_which_has_no_largest_value():
    score, same, enrol, test = trials()
    low, high = metrics.confidence_interval(metrics.cllr, score, same, enrol, test)
    assert 0 < low < metrics.cllr(score[same], score[~same]) < high < 2


def test_interval_passes_options_on():
    score, same, enrol, test = trials()
    wide = metrics.confidence_interval(metrics.tar_at_far, score, same, enrol, test, far=0.5)
    narrow = metrics.confidence_interval(metrics.tar_at_far, score, same, enrol, test, far=0.01)
    assert wide.low > narrow.high


TRIALS = ([0.9, 0.1, 0.8], [True, False, True], ["a", "a", "b"], ["a", "b", "b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.confidence_interval(metrics.eer, *TRIALS, level=95), "level is 95"),
        (lambda: metrics.confidence_interval(metrics.eer, *TRIALS), "without 1 of them there are no non-target trials"),
        (lambda: metrics.confidence_interval(metrics.eer, [0.9, math.nan, 0.8], *TRIALS[1:]), "score 1 is nan"),
        (lambda: metrics.confidence_interval(metrics.eer, *TRIALS[:3], ["a"]), "3 scores, 3 labels, 3 and 1 speakers"),
        (lambda: metrics.confidence_interval(metrics.eer, *TRIALS[:3], ["b", "b", "b"]), "trial 0 is labelled 1 but"),
        (lambda: metrics.confidence_interval(metrics.eer, [1.0], [True], ["a"], ["a"]), "1 speaker: an interval"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
