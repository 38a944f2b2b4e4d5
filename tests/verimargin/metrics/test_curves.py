import math
import subprocess
import sys
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verimargin import metrics
from verimargin.metrics import arrays

scores = st.lists(st.sampled_from([k / 8 for k in range(-8, 9)]) | st.floats(-2, 2), min_size=1, max_size=14)


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
    random, before = np.random.default_rng(seed), arrays.BLOCK
    positive, negative = np.array(positive, dtype), np.array(negative, dtype)
    ones, weights = ([draw(len(side)) for side in (positive, negative)] for draw in (np.ones, random.random))
    try:
        arrays.BLOCK = block
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
        arrays.BLOCK = before


def test_a_curve_takes_little_more_memory_than_it_holds():
    random = np.random.default_rng(0)
    positive, negative = random.normal(size=10**5), random.normal(size=10**6)
    before, arrays.BLOCK = arrays.BLOCK, 2**14
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
        arrays.BLOCK = before


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.min_dcf([0.1], [0.1], p_target=1.0), "p_target is 1.0"),
        (lambda: metrics.min_dcf([0.1], [0.1], c_miss=math.nan), "c_miss is nan: give a finite cost above 0"),
        (lambda: metrics.actual_dcf([0.1], [0.1], c_fa=0.0), r"c_fa is 0\.0: give a finite cost above 0"),
        (lambda: metrics.det_curve([0.1], [0.1]).rates_at(math.nan), "the threshold is nan"),
        (lambda: metrics.tar_at_far([0.1], [0.1], far=-0.1), "far is -0.1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=200, deadline=None)
@given(scores, scores, st.floats(-3, 3))
def test_rates_at_any_threshold_equal_counting(positive, negative, threshold):
    far, frr = metrics.det_curve(positive, negative).rates_at(threshold)
    assert far == pytest.approx((np.array(negative) > threshold).mean(), abs=1e-12)
    assert frr == pytest.approx((np.array(positive) <= threshold).mean(), abs=1e-12)


def lines_below(curve):
    """For each point, the lowest line between two others at its place, by trying all pairs."""
    x, y = curve.false_reject, curve.false_accept
    for k in range(len(x)):
        heights = [
            y[a] + (y[b] - y[a]) * (x[k] - x[a]) / (x[b] - x[a])
            for a in range(len(x))
            for b in range(len(x))
            if x[a] <= x[k] <= x[b] and x[a] < x[b]
        ]
        yield min([y[k], *heights])


@settings(max_examples=100, deadline=None)
@given(scores, scores)
@example([-1.0] * 3 + [-0.875] * 5 + [-0.75] * 4, [-1.0] * 3 + [-0.875] * 5 + [-0.75])
def test_the_hull_is_the_lowest_of_all_lines_between_two_points(positive, negative):
    curve = metrics.det_curve(positive, negative)
    hull = curve.hull()
    points = set(zip(*(values.tolist() for values in curve)))
    assert set(zip(*(values.tolist() for values in hull))) <= points
    for x, lowest in zip(curve.false_reject, lines_below(curve)):
        at = np.interp(x, hull.false_reject, hull.false_accept)
        if x not in hull.false_reject:  # on a vertical line the interpolation takes any of its points
            assert at == pytest.approx(lowest, abs=1e-12)
    slopes = np.diff(hull.false_accept)[:-1] * np.diff(hull.false_reject)[1:]
    rounding = 1e-12  # which may leave a corner between two others on one line
    assert (slopes < np.diff(hull.false_accept)[1:] * np.diff(hull.false_reject)[:-1] + rounding).all()


def test_the_hull_of_half_a_million_scores():
    random = np.random.default_rng(0)
    curve = metrics.det_curve(random.normal(2, 1, 250_000), random.normal(0, 1, 250_000))
    started = time.perf_counter()
    hull = curve.hull()
    assert time.perf_counter() - started < 20
    assert 2 < len(hull.threshold) < 5000
    inside = np.interp(curve.false_reject, hull.false_reject, hull.false_accept)
    assert (inside <= curve.false_accept + 1e-9).all()


def test_swapped_scores_are_told():
    """eer(impostor, genuine) gave 1.0 without a word."""
    with pytest.warns(UserWarning, match="above 1/2, .* positive and the negative scores are swapped") as told:
        assert metrics.eer([0.1, 0.2], [0.8, 0.9])[0] == 1.0
    assert told[0].filename == __file__  # it points at the caller's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.eer([0.5, 0.5], [0.5, 0.5])[0] == 0.5  # as of an encoder that has collapsed
        metrics.eer([0.8, 0.9], [0.1, 0.2])
