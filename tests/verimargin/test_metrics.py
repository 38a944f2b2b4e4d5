import math
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verimargin import metrics
from verimargin.metrics import DetCurve

scores = st.lists(st.sampled_from([k / 8 for k in range(-8, 9)]) | st.floats(-2, 2), min_size=1, max_size=14)


def trials(speakers=12, utterances=4, noise=1.0, seed=0):
    random = np.random.default_rng(seed)
    voice = random.normal(size=(speakers, 1, 6)) + noise * random.normal(size=(speakers, utterances, 6))
    voice = (voice / np.linalg.norm(voice, axis=2, keepdims=True)).reshape(-1, 6)
    who = np.repeat(np.arange(speakers), utterances)
    i, j = np.triu_indices(len(voice), 1)
    return (voice[i] * voice[j]).sum(1), who[i] == who[j], who[i], who[j]


@settings(max_examples=200, deadline=None)
@given(scores, scores)
def test_curve_equals_counting(positive, negative):
    curve = metrics.det_curve(positive, negative)
    positive, negative = np.array(positive), np.array(negative)
    assert list(curve.threshold) == [-math.inf, *np.unique(np.concatenate([positive, negative]))]
    for far, frr, threshold in zip(*curve):
        assert far == pytest.approx((negative > threshold).mean(), abs=1e-12)
        assert frr == pytest.approx((positive <= threshold).mean(), abs=1e-12)


def in_one_go(positive, negative, positive_weight, negative_weight):
    """The curve from one sorted array of all scores, with weights for all."""
    scores = np.concatenate([positive, negative]).astype(float)
    order = np.argsort(scores, kind="stable")
    weight, same = np.concatenate([positive_weight, negative_weight])[order], order < len(positive)
    last = np.append(np.diff(scores[order]) > 0, True)
    missed, refused = (np.append(0.0, np.cumsum(np.where(side, weight, 0.0))[last]) for side in (same, ~same))
    return (refused[-1] - refused) / refused[-1], missed / missed[-1], np.append(-np.inf, scores[order][last])


@settings(max_examples=200, deadline=None)
@given(scores, scores, st.integers(0, 2**32), st.sampled_from([1, 3, 2**20]), st.sampled_from([np.float32, float]))
def test_curve_in_blocks_equals_that_in_one_go(positive, negative, seed, block, dtype):
    """Bit for bit, with weights and without. All in one go, 1e7 scores took 0.9 GiB."""
    random, before = np.random.default_rng(seed), metrics.BLOCK
    positive, negative = np.array(positive, dtype), np.array(negative, dtype)
    ones, weights = ([draw(len(side)) for side in (positive, negative)] for draw in (np.ones, random.random))
    try:
        metrics.BLOCK = block
        for given_weights, used in (
            ([None, None], ones),
            (weights, weights),
            ([weights[0], None], [weights[0], ones[1]]),
        ):
            curve = metrics.det_curve(positive, negative, *given_weights)
            for found, expected in zip(curve, in_one_go(positive, negative, *used)):
                np.testing.assert_array_equal(found, expected, strict=True)
            cost = 0.3 * curve.false_reject + 0.7 * curve.false_accept
            best = curve.threshold[np.argmin(cost)]
            assert curve.min_dcf(0.3) == (pytest.approx(cost.min(), abs=1e-15), best)
            half = [w if w is None else 0.5 * w for w in given_weights]
            assert metrics.cllr(positive, negative, *half) == pytest.approx(
                metrics.cllr(positive.astype(float), negative.astype(float), *used), rel=1e-12
            )
    finally:
        metrics.BLOCK = before


def test_a_curve_takes_little_more_memory_than_it_holds():
    random = np.random.default_rng(0)
    positive, negative = random.normal(size=10**5), random.normal(size=10**6)
    before, metrics.BLOCK = metrics.BLOCK, 2**14
    tracemalloc.start()
    try:
        curve = metrics.det_curve(positive, negative)
        held, peak = tracemalloc.get_traced_memory()
        assert held >= sum(side.nbytes for side in curve)
        assert peak < 1.15 * held  # it was 4 times as much
        tracemalloc.reset_peak()
        curve.eer(), curve.min_dcf(), curve.tar_at_far(1e-3), metrics.cllr(positive, negative)
        assert tracemalloc.get_traced_memory()[1] < 1.15 * held
    finally:
        tracemalloc.stop()
        metrics.BLOCK = before


HUNDRED_MILLION = """
import numpy as np
from verimargin import metrics
random = np.random.default_rng(0)
positive, negative = random.normal(2, 1, 10**6), random.normal(0, 1, 99 * 10**6)
print(metrics.eer(positive, negative)[0])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_a_hundred_million_scores_within_four_gigabytes():
    """In float64, with the scores themselves; ten million took 1.5 GiB."""
    done = subprocess.run([sys.executable, "-c", HUNDRED_MILLION], capture_output=True, text=True, check=True)
    value, _, peak, _ = done.stdout.split()
    assert float(value) == pytest.approx(0.1587, abs=1e-3)
    assert int(peak) * 1024 < 4 * 2**30


@settings(max_examples=200, deadline=None)
@given(scores, scores, st.randoms())
def test_order_and_repetition_of_trials_change_nothing(positive, negative, random):
    expected = [
        metrics.eer(positive, negative)[0],
        metrics.min_dcf(positive, negative)[0],
        metrics.tar_at_far(positive, negative, far=0.1)[0],
        metrics.cllr(positive, negative),
    ]
    mixed, twice = random.sample(positive, len(positive)), negative * 2
    random.shuffle(twice)
    twos = np.full(len(positive), 2.0)
    assert [
        metrics.eer(mixed, twice, twos)[0],
        metrics.min_dcf(mixed, twice, twos)[0],
        metrics.tar_at_far(mixed, twice, twos, far=0.1)[0],
        metrics.cllr(mixed, twice, twos),
    ] == pytest.approx(expected, abs=1e-12)


def test_values_by_hand():
    positive, negative = [0.9, 0.8, 0.4, 0.3], [0.7, 0.35, 0.2, 0.1, 0.0]
    assert metrics.tar_at_far(positive, negative, far=0.0) == (0.5, 0.7)
    assert metrics.tar_at_far(positive, negative, far=0.2) == (0.75, 0.35)
    assert metrics.tar_at_far(positive, negative, far=0.19) == (0.5, 0.7)
    assert metrics.tar_at_far(positive, negative, far=1.0) == (1.0, -math.inf)
    assert metrics.min_dcf(positive, negative, p_target=0.5) == (pytest.approx(0.5 * 0.4), 0.2)
    # accepting everything is a decision too
    assert metrics.min_dcf([0.0], [1.0], p_target=0.9)[0] == pytest.approx(0.1)
    assert metrics.cllr([math.log(3)], [-math.log(3)]) == pytest.approx(math.log2(4 / 3))


def test_the_last_allowed_false_accept_counts():
    negative = np.append(np.zeros(999_999), 1.0)
    assert metrics.tar_at_far([0.5, 0.5], negative, far=1e-6) == (1.0, 0.0)


def test_large_scores_do_not_overflow_cllr():
    assert metrics.cllr([1e4], [-1e4]) == 0
    assert metrics.cllr([-1e4], [1e4]) == pytest.approx(1e4 / math.log(2))


def test_tensors_and_shapes():
    positive, negative = torch.tensor([[0.9], [0.2]], requires_grad=True), torch.tensor([0.1, 0.3])
    assert metrics.eer(positive, negative) == pytest.approx(metrics.eer([0.9, 0.2], [0.1, 0.3]))


def test_accepting_every_trial_is_a_decision_too():
    """SpeechBrain's minDCF is 0.7 here: its lowest threshold is a score, which refuses the trials that have it."""
    positive, negative = [0.1, 0.2, 0.3, 0.3], [0.9]
    assert metrics.min_dcf(positive, negative, p_target=0.7) == (pytest.approx(0.3), -math.inf)
    assert metrics.min_dcf(positive, negative, p_target=0.2) == (pytest.approx(0.2), 0.9)
    assert metrics.min_dcf(positive, negative, p_target=0.5, c_miss=9, c_fa=2) == (pytest.approx(1.0), -math.inf)
    speechbrain = pytest.importorskip("speechbrain.utils.metric_stats")
    theirs = speechbrain.minDCF(torch.tensor(positive), torch.tensor(negative), p_target=0.7)
    assert theirs[0] > 0.3


def test_equally_close_thresholds_are_decided_as_by_speechbrain():
    """With few trials the rates are often equally close, and the two means of the rates then differ."""
    speechbrain, random = pytest.importorskip("speechbrain.utils.metric_stats"), np.random.default_rng(0)
    for _ in range(150):
        positive, negative = (random.integers(0, 30, random.integers(1, 14)) for _ in range(2))
        theirs = speechbrain.EER(torch.tensor(positive).float(), torch.tensor(negative).float())
        rate, threshold = metrics.eer(positive, negative)
        assert rate == pytest.approx(theirs[0], abs=1e-6)
        assert int(threshold) == int(theirs[1])  # theirs may lie between two scores


def test_half_a_million_trials():
    """A quadratic method would need terabytes here."""
    random = np.random.default_rng(0)
    positive, negative = random.normal(2, 1, 250_000), random.normal(0, 1, 300_000)
    started = time.perf_counter()
    assert metrics.eer(positive, negative)[0] == pytest.approx(0.1587, abs=2e-3)
    assert metrics.tar_at_far(positive, negative, far=1e-3)[0] == pytest.approx(0.1378, abs=5e-3)
    assert time.perf_counter() - started < 60  # seconds where a quadratic method takes hours


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


@pytest.mark.parametrize(
    ("level", "freedom"), [(0.95, 9), (0.95, 39), (0.9, 5), (0.99, 20), (0.95, 3), (0.99, 9), (0.999, 9)]
)
def test_students_quantile(level, freedom):
    stats = pytest.importorskip("scipy.stats")
    assert metrics._student(level, freedom) == pytest.approx(stats.t.ppf(0.5 + level / 2, freedom), rel=0.01)


def test_a_few_speakers_that_determine_the_value_leave_few_degrees_of_freedom():
    even, uneven = np.tile([0.9, 1.1], 20), np.append(np.full(39, 1.0), 2.0)
    assert metrics._variance(even[None]) == (pytest.approx(39 / 40 * 40 * 0.01), 39)
    assert metrics._variance(uneven[None])[1] == 3
    both = metrics._variance(np.stack([even, uneven]))[0]
    assert both == pytest.approx((metrics._variance(even[None])[0] + metrics._variance(uneven[None])[0]) / 2)


def _eer(scores, same):
    return metrics.eer(scores[same], scores[~same])[0]


@pytest.mark.parametrize("gain", [0.0, 0.6])
def test_a_paired_difference_is_told_where_there_is_one(gain):
    """Two systems with noise of their own on the same speakers."""
    random, told, narrower = np.random.default_rng(5), 0, 0
    for seed in range(25):
        score, same, enrol, test = trials(24, 4, 0.5, seed)
        one, other = (score + 0.1 * random.normal(size=len(score)) + worse * same for worse in (0.0, -gain))
        interval = metrics.difference_intervals({"EER": DetCurve.eer}, one, other, same, enrol, test)["EER"]
        told += interval.high < 0 or interval.low > 0
        assert interval.low <= _eer(one, same) - _eer(other, same) <= interval.high
        alone = metrics.confidence_interval(metrics.eer, one, same, enrol, test)
        narrower += interval.high - interval.low < alone.high - alone.low
    assert told <= 4 if gain == 0.0 else told >= 22
    assert narrower >= 22 or gain


def test_two_perfect_systems_are_not_told_apart():
    speaker = np.arange(12)
    enrol, test = np.repeat(speaker, 12), np.tile(speaker, 12)
    same = enrol == test
    low, high = metrics.difference_intervals({"EER": DetCurve.eer}, same, 2.0 * same, same, enrol, test)["EER"]
    assert -0.4 < low < -0.2
    assert 0.2 < high < 0.4


def test_interval_passes_options_on():
    score, same, enrol, test = trials()
    wide = metrics.confidence_interval(metrics.tar_at_far, score, same, enrol, test, far=0.5)
    narrow = metrics.confidence_interval(metrics.tar_at_far, score, same, enrol, test, far=0.01)
    assert wide.low > narrow.high


TRIALS = ([0.9, 0.1, 0.8], [True, False, True], ["a", "a", "b"], ["a", "b", "b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.eer([], [0.1]), "no positive score"),
        (lambda: metrics.eer([0.1], []), "no negative score"),
        (lambda: metrics.eer([0.1, math.nan], [0.1]), "positive score 1 is nan"),
        (lambda: metrics.eer([0.1], [0.1], [1.0, 2.0]), "positive weights must be 1 numbers"),
        (lambda: metrics.eer([0.1], [0.1], None, [0.0]), "negative weights"),
        (lambda: metrics.min_dcf([0.1], [0.1], p_target=1.0), "p_target is 1.0"),
        (lambda: metrics.tar_at_far([0.1], [0.1], far=-0.1), "far is -0.1"),
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
