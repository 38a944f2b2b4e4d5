from functools import partial

import numpy as np
import pytest
from verimargin import metrics
from verimargin.metrics import DetCurve, sensitivity, speakers
from verimargin.metrics.curves import sorted_curve

METRICS = {
    "EER": DetCurve.eer,
    "minDCF": partial(DetCurve.min_dcf, p_target=0.1),
    "TAR": partial(DetCurve.tar_at_far, far=0.05),
    "DCF": partial(DetCurve.actual_dcf, p_target=0.1),
}


def normal_trials(distance=2.0, number=200_000):
    """Scores of two normal distributions, so that the DET curve is a straight line of slope 1 on normal axes."""
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(distance, 1, number), random.normal(0, 1, number)])
    same = np.arange(2 * number) < number
    order = np.argsort(scores)
    return scores[order], same[order]


@pytest.mark.parametrize("name", METRICS)
def test_the_first_order_is_what_a_small_change_of_the_trials_does(name):
    """A share of the targets is moved to the bottom, or of the non-targets to the top."""
    scores, same = normal_trials()
    metric, number = METRICS[name], len(scores) // 2
    found = sensitivity.sensitivity(metric, sorted_curve(scores, same), number, number)
    before = metric(sorted_curve(scores, same))[0]
    share = 0.002
    for side, moved_to, expected in ((same, -9.0, found.miss), (~same, 9.0, found.accept)):
        moved, chosen = scores.copy(), np.flatnonzero(side)
        right = chosen[(scores[chosen] > found.threshold) == same[chosen]]  # those that were decided rightly
        moved[np.random.default_rng(1).choice(right, int(share * number), replace=False)] = moved_to
        order = np.argsort(moved, kind="stable")
        after = metric(sorted_curve(moved[order], same[order]))[0]
        assert (after - before) / share == pytest.approx(expected, rel=0.12, abs=0.03)


def test_the_sensitivity_of_the_eer_of_equal_normal_distributions():
    scores, same = normal_trials()
    found = sensitivity.sensitivity(DetCurve.eer, sorted_curve(scores, same), len(scores) // 2, len(scores) // 2)
    assert (found.miss, found.accept) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.5, abs=0.02))


@pytest.mark.parametrize("metric", [lambda curve: (0.0, 0.0), partial(DetCurve.tar_at_far, None)])
def test_other_metrics_have_none(metric):
    assert sensitivity.sensitivity(metric, metrics.det_curve([1.0], [0.0]), 1, 1) is None


def test_the_parts_of_a_speaker_are_those_of_its_trials():
    random = np.random.default_rng(3)
    enrol, test = (side.reshape(-1) for side in np.meshgrid(np.arange(9), np.arange(9), indexing="ij"))
    same = enrol == test
    scores = same + random.normal(size=81)
    trials = speakers.grouped(scores, same, enrol, test)
    curve = sorted_curve(trials.scores, trials.same)
    found = sensitivity.sensitivity(DetCurve.eer, curve, 9, 72)
    far, frr = curve.rates_at(found.threshold)
    slow = np.zeros(9)
    for score, target, one, other in zip(scores, same, enrol, test):
        wrong = (score > found.threshold) != target
        part = found.miss / 9 * (wrong - frr) if target else found.accept / 72 * (wrong - far)
        slow[one] += part
        slow[other] += part * (one != other)
    parts = sensitivity.speaker_parts(DetCurve.eer, curve, trials)
    assert parts.of_speakers == pytest.approx(slow)
    assert parts.unseen == pytest.approx((found.miss / 9) ** 2 + 2 * (found.accept / 72) ** 2)


def test_perfect_and_inverted_scores_have_finite_parts():
    enrol, test = (side.reshape(-1) for side in np.meshgrid(np.arange(4), np.arange(4), indexing="ij"))
    same = enrol == test
    for scores in (same, ~same, np.zeros(16)):
        trials = speakers.grouped(scores, same, enrol, test)
        curve = sorted_curve(trials.scores, trials.same)
        for metric in METRICS.values():
            parts = sensitivity.speaker_parts(metric, curve, trials)
            assert np.isfinite(parts.of_speakers).all()
            assert np.isfinite(parts.unseen)
