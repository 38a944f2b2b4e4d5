import numpy as np
import pytest
from verimargin import metrics
from verimargin.metrics import DetCurve, speakers

ENROL, TEST = (side.reshape(-1) for side in np.meshgrid(np.arange(12), np.arange(12), indexing="ij"))
SAME = ENROL == TEST
SCORES = SAME + 0.7 * np.sin(np.arange(144.0))


def test_the_trials_are_in_order_and_each_speaker_is_in_one_group():
    names = np.array([f"speaker {n}" for n in range(12)])
    trials = speakers.grouped(SCORES, SAME, names[ENROL], names[TEST])
    assert (np.diff(trials.scores) >= 0).all()
    assert trials.speakers == 12
    assert ((trials.enrol == trials.test) == trials.same).all()
    assert trials.groups.shape == (speakers.DIVISIONS, 12)


def test_the_jackknife_computes_the_figure_again_without_each_group():
    trials = speakers.grouped(SCORES, SAME, ENROL, TEST)
    (whole,), (left_out,) = speakers.jackknife(speakers.values_of({"EER": DetCurve.eer}), trials, iter)
    assert whole == metrics.eer(SCORES[SAME], SCORES[~SAME])[0]
    gone = trials.groups[1] == 3
    kept = ~(gone[ENROL] | gone[TEST])
    assert left_out[1, 3] == metrics.eer(SCORES[SAME & kept], SCORES[~SAME & kept])[0]


def test_a_few_speakers_that_determine_the_value_leave_few_degrees_of_freedom():
    even, uneven = np.tile([0.9, 1.1], 20), np.append(np.full(39, 1.0), 2.0)
    assert speakers.jackknife_variance(even[None]) == (pytest.approx(39 / 40 * 40 * 0.01), 39)
    assert speakers.jackknife_variance(uneven[None])[1] == 3
    both = speakers.jackknife_variance(np.stack([even, uneven]))[0]
    assert both == pytest.approx(
        (speakers.jackknife_variance(even[None])[0] + speakers.jackknife_variance(uneven[None])[0]) / 2
    )
