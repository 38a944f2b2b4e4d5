import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verimargin import metrics

scores = st.lists(st.sampled_from([k / 4 for k in range(-8, 9)]) | st.floats(-2, 2), min_size=1, max_size=14)


def test_large_scores_do_not_overflow_cllr():
    assert metrics.cllr([1e4], [-1e4]) == 0
    assert metrics.cllr([-1e4], [1e4]) == pytest.approx(1e4 / math.log(2))


def by_pooling(positive, negative):
    """minCllr by its definition: pool adjacent violators, and then the Cllr of the pools' log-likelihood ratios."""
    pools = []  # of [share of the positives, share of the negatives]
    for score in np.unique(np.concatenate([positive, negative])):
        pools.append([(np.array(positive) == score).mean(), (np.array(negative) == score).mean()])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last)]
    total = 0.0
    for dp, dn in pools:
        total += dp * math.log2(1 + dn / dp) if dp else 0.0
        total += dn * math.log2(1 + dp / dn) if dn else 0.0
    return total / 2


@settings(max_examples=300, deadline=None)
@given(scores, scores)
def test_min_cllr_equals_pooling_by_hand(positive, negative):
    assert metrics.min_cllr(positive, negative) == pytest.approx(by_pooling(positive, negative), abs=1e-9)


def test_min_cllr_equals_isotonic_regression():
    isotonic = pytest.importorskip("sklearn.isotonic")
    random = np.random.default_rng(0)
    positive, negative = random.normal(1, 1, 400).round(2), random.normal(0, 1, 3000).round(2)
    scores, same = np.concatenate([positive, negative]), np.arange(3400) < 400
    weight = np.where(same, 1 / 400, 1 / 3000)
    p = isotonic.IsotonicRegression().fit(scores, same, weight).predict(scores)
    expected = (-np.log2(p[same]).mean() - np.log2(1 - p[~same]).mean()) / 2  # p is for equal priors
    assert metrics.min_cllr(positive, negative) == pytest.approx(expected, rel=1e-9)
    assert metrics.min_cllr(positive, negative) < metrics.cllr(positive, negative)


def test_a_growing_function_of_the_scores_changes_no_min_cllr():
    random = np.random.default_rng(1)
    positive, negative = random.normal(1, 1, 200), random.normal(0, 1, 900)
    expected = metrics.min_cllr(positive, negative)
    assert metrics.min_cllr(np.exp(positive), np.exp(negative)) == pytest.approx(expected, rel=1e-12)
    weights = np.full(200, 3.0), np.full(900, 0.5)
    assert metrics.min_cllr(positive, negative, *weights) == pytest.approx(expected, rel=1e-12)
    assert metrics.min_cllr(negative, positive) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("p", "c_miss", "c_fa"), [(0.01, 1, 1), (0.5, 1, 1), (0.05, 10, 2)])
def test_actual_dcf_by_counting(p, c_miss, c_fa):
    random = np.random.default_rng(2)
    positive, negative = random.normal(4, 3, 300), random.normal(-4, 3, 2000)
    threshold = math.log(c_fa * (1 - p) / (c_miss * p))
    expected = c_miss * p * (positive <= threshold).mean() + c_fa * (1 - p) * (negative > threshold).mean()
    options = {"p_target": p, "c_miss": c_miss, "c_fa": c_fa}
    assert metrics.actual_dcf(positive, negative, **options) == pytest.approx((expected, threshold), abs=1e-15)
    assert metrics.min_dcf(positive, negative, **options)[0] <= expected


def test_true_likelihood_ratios_are_calibrated():
    """Two normal distributions with means +-m and variance 2 m have their scores as log-likelihood ratios."""
    random = np.random.default_rng(3)
    positive, negative = (random.normal(sign * 4, 8**0.5, 200_000) for sign in (1, -1))
    assert metrics.cllr(positive, negative) == pytest.approx(metrics.min_cllr(positive, negative), rel=0.02)
    for p in (0.01, 0.5):
        actual, least = (m(positive, negative, p_target=p)[0] for m in (metrics.actual_dcf, metrics.min_dcf))
        assert actual == pytest.approx(least, rel=0.05)
        assert (
            metrics.actual_dcf(2 * positive, 2 * negative, p_target=0.01)[0]
            > 1.3 * metrics.min_dcf(positive, negative, p_target=0.01)[0]
        )


def test_a_prior_outside_its_range_is_named():
    with pytest.raises(ValueError, match="p_target is 0"):
        metrics.actual_dcf([1.0], [0.0], p_target=0)
