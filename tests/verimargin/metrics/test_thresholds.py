import math

import numpy as np
import pytest
from verimargin import metrics
from verimargin.metrics import Interval


def trials(speakers=24, utterances=4, seed=0):
    random = np.random.default_rng(seed)
    voice = (random.normal(size=(speakers, 1, 8)) + random.normal(size=(speakers, utterances, 8))).reshape(-1, 8)
    voice /= np.linalg.norm(voice, axis=1, keepdims=True)
    who = np.repeat(np.arange(speakers), utterances)
    i, j = np.triu_indices(len(voice), 1)
    return (voice[i] * voice[j]).sum(1), who[i] == who[j], who[i], who[j]


def test_the_threshold_is_the_lowest_that_keeps_to_the_far():
    scores, same, enrol, test = trials()
    negative = np.sort(scores[~same])
    for found in metrics.thresholds_at_far(scores, same, enrol, test, [0.1, 0.01, 1e-3]):
        allowed = math.floor(found.far * len(negative) + 1e-9)
        assert found.value >= negative[-allowed - 1]
        assert (negative > found.value).sum() <= allowed < (negative >= found.value).sum() + 1
        assert not ((scores < found.value) & (scores > negative[-allowed - 1])).any()


def test_the_interval_is_that_of_the_far_turned_into_thresholds():
    scores, same, enrol, test = trials()
    (found,) = metrics.thresholds_at_far(scores, same, enrol, test, [0.05])

    def false_accepts(positive, negative):
        return (np.asarray(negative) > found.value).mean()

    low, high = metrics.confidence_interval(false_accepts, scores, same, enrol, test)
    ends = [metrics.tar_at_far(scores[same], scores[~same], far=far)[1] for far in (high, low)]
    assert found.interval == Interval(*ends)
    assert found.interval.low < found.value < found.interval.high


def test_intervals_hold_the_threshold_of_all_speakers():
    """In about 95 % of the cases; they would in far fewer if trials counted as independent."""
    true = np.mean([metrics.thresholds_at_far(*trials(200, 4, s), [0.02])[0].value for s in (1000, 1001, 1002)])
    hits = 0
    for seed in range(60):
        low, high = metrics.thresholds_at_far(*trials(20, 4, seed), [0.02])[0].interval
        hits += low <= true <= high
    assert hits >= 52


def test_a_threshold_is_judged_by_counting():
    scores, same, enrol, test = trials(seed=1)
    first, second = metrics.judge([0.3, 0.6], scores, same, enrol, test)
    assert first.false_accept == (scores[~same] > 0.3).mean()
    assert second.false_reject == (scores[same] <= 0.6).mean()
    for one in (first, second):
        assert one.false_accept_interval.low <= one.false_accept <= one.false_accept_interval.high
        assert one.false_reject_interval.low <= one.false_reject <= one.false_reject_interval.high
    (far_away,) = metrics.judge([50.0], scores, same, enrol, test)
    assert far_away[:2] == (0.0, 1.0)
    assert far_away.false_accept_interval.high < 0.3
    assert far_away.false_reject_interval.low > 0.7


def test_without_intervals_and_with_too_few_speakers():
    scores, same, enrol, test = trials()
    assert metrics.thresholds_at_far(scores, same, enrol, test, [0.1], intervals=False)[0].interval is None
    few = ([0.9, 0.1, 0.8, 0.2], [True, False, True, False], [0, 0, 1, 1], [0, 1, 1, 0])
    assert metrics.thresholds_at_far(*few, [0.5])[0].interval is None
    assert metrics.judge([0.5], *few)[0][2:] == (None, None)


@pytest.mark.parametrize(
    ("far", "message"),
    [
        (0.0, r"far is 0\.0"),
        (2, "far is 2"),
        (1.0, r"far is 1\.0: .* 1 accepts every trial"),
        (1e-6, "less than one of 4,416 non-target trials: give .* 1,000,000"),
    ],
)
def test_a_far_that_the_trials_cannot_tell_is_refused(far, message):
    with pytest.raises(ValueError, match=message):
        metrics.thresholds_at_far(*trials(), [far])
