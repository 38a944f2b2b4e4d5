from functools import partial

import numpy as np
import pytest
from small_scores import trials
from verimargin import metrics
from verimargin.metrics import DetCurve, paired

FIGURES = {
    "EER": DetCurve.eer,
    "minDCF": partial(DetCurve.min_dcf, p_target=0.05),
    "TAR": partial(DetCurve.tar_at_far, far=0.02),
}


def eer(scores, same):
    return metrics.eer(scores[same], scores[~same])[0]


def trained(voices, who, noise, seeds, random, spread=0.15):
    """The scores (seeds, trials) of trainings, each with its own noise, of which some are worse than others."""
    i, j = np.triu_indices(len(who), 1)
    rows = []
    for _ in range(seeds):
        x = voices + noise * np.exp(spread * random.normal()) * random.normal(size=voices.shape)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        rows.append((x[i] * x[j]).sum(1))
    return np.array(rows), who[i] == who[j], who[i], who[j]


def simulated(seed, noises, seeds, speakers=24, utterances=4):
    """The trainings of two losses, whose noises are given, on the same recordings."""
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), utterances)
    voices = random.normal(size=(speakers, 8))[who] + 0.5 * random.normal(size=(len(who), 8))
    sides = [trained(voices, who, noise, seeds, random) for noise in noises]
    return sides[0][0], sides[1][0], *sides[0][1:]


@pytest.mark.parametrize("gain", [0.0, 0.6])
def test_a_paired_difference_is_told_where_there_is_one(gain):
    """Two systems with noise of their own on the same speakers."""
    random, told, narrower = np.random.default_rng(5), 0, 0
    for seed in range(25):
        score, same, enrol, test = trials(24, 4, 0.5, seed)
        one, other = (score + 0.1 * random.normal(size=len(score)) + worse * same for worse in (0.0, -gain))
        interval = metrics.difference_intervals({"EER": DetCurve.eer}, one, other, same, enrol, test)["EER"]
        told += interval.high < 0 or interval.low > 0
        assert interval.low <= eer(one, same) - eer(other, same) <= interval.high
        alone = metrics.confidence_interval(metrics.eer, one, same, enrol, test)
        narrower += interval.high - interval.low < alone.high - alone.low
    assert told <= 4 if gain == 0.0 else told >= 22
    assert narrower >= 22 or gain


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_equally_good_losses_are_rarely_told_apart(seeds):
    """benchmarks/intervals.py has larger simulations."""
    told, samples = dict.fromkeys(FIGURES, 0), 100
    for sample in range(samples):
        spread = simulated(sample, (0.3, 0.3), seeds) if seeds > 1 else simulated_without_spread(sample)
        for name, found in metrics.differences(FIGURES, *spread).items():
            told[name] += found.p_value <= 0.05
    assert max(told.values()) <= 12  # 5 are expected; 3 standard deviations more


def simulated_without_spread(seed):
    """One training of each loss cannot tell a bad seed from a bad loss: all are alike here."""
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(24), 4)
    voices = random.normal(size=(24, 8))[who] + 0.5 * random.normal(size=(len(who), 8))
    sides = [trained(voices, who, 0.3, 1, random, spread=0.0) for _ in range(2)]
    return sides[0][0], sides[1][0], *sides[0][1:]


def test_a_clear_effect_is_found():
    told = dict.fromkeys(FIGURES, 0)
    for sample in range(30):
        for name, found in metrics.differences(FIGURES, *simulated(sample, (0.2, 0.8), 3)).items():
            told[name] += found.p_value <= 0.05 and (found.value < 0) == (name != "TAR")
    assert min(told.values()) >= 24


def test_without_the_trainings_a_bad_seed_would_be_a_bad_loss():
    """The same simulation, if the mean score of the seeds is compared as if there were one training."""
    with_seeds, without = 0, 0
    for sample in range(60):
        one, other, *judged = simulated(1000 + sample, (0.5, 0.5), 2)
        with_seeds += metrics.differences(FIGURES, one, other, *judged)["EER"].p_value <= 0.05
        without += metrics.differences(FIGURES, one[0], other[0], *judged)["EER"].p_value <= 0.05
    assert with_seeds <= 8
    assert without > with_seeds


def test_the_intervals_are_narrower_than_the_jackknifes_were():
    """The jackknife counts twice what belongs to a pair of speakers."""
    widths = []
    for sample in range(10):
        one, other, *judged = simulated_without_spread(sample)
        for metric in (DetCurve.eer, lambda curve: curve.eer()):  # of the second, nothing is known but its values
            low, high = metrics.difference_intervals({"EER": metric}, one, other, *judged)["EER"]
            widths.append(high - low)
    assert np.mean(widths[::2]) < 0.95 * np.mean(widths[1::2])


def test_two_perfect_systems_are_not_told_apart():
    speaker = np.arange(12)
    enrol, test = np.repeat(speaker, 12), np.tile(speaker, 12)
    same = enrol == test
    found = metrics.differences({"EER": DetCurve.eer}, same, 2.0 * same, same, enrol, test)["EER"]
    low, high = found.interval()
    assert found.p_value == 1
    assert -0.4 < low < -0.2
    assert 0.2 < high < 0.4


def test_one_training_of_shape_1_is_a_training():
    one, other, *judged = simulated(0, (0.3, 0.5), 1)
    assert metrics.differences(FIGURES, one, other, *judged) == metrics.differences(FIGURES, one[0], other[0], *judged)


def test_the_interval_and_the_p_value_agree():
    found = paired.Difference(0.02, 0.008, 7.0, 30, 1.0)
    low, high = found.interval(1 - found.p_value)
    assert (low, high) == (pytest.approx(0.0, abs=1e-6), pytest.approx(0.04, abs=1e-6))


def test_the_mean_of_trainings_has_an_interval():
    one, _, *judged = simulated(1, (0.3, 0.3), 3)
    joint = metrics.confidence_intervals({"EER": DetCurve.eer}, one, *judged)["EER"]
    single = [metrics.confidence_intervals({"EER": DetCurve.eer}, row, *judged)["EER"] for row in one]
    assert metrics.confidence_intervals({"EER": DetCurve.eer}, one[:1], *judged)["EER"] == single[0]
    assert joint.low < np.mean([eer(row, judged[0]) for row in one]) < joint.high


def test_bad_input_is_named():
    one, other, *judged = simulated(0, (0.3, 0.3), 2)
    with pytest.raises(ValueError, match="level is 95"):
        metrics.difference_intervals(FIGURES, one, other, *judged, level=95)
    few = judged[1] + judged[2] < 2  # of the first two speakers
    with pytest.raises(metrics.TooFewSpeakers, match="at least 3"):
        metrics.differences(FIGURES, one[:, few], other[:, few], *(side[few] for side in judged))
    with pytest.raises(ValueError, match="labels, "):
        metrics.differences(FIGURES, one, other[:, 1:], *judged)
