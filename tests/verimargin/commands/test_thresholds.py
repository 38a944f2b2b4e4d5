import csv

import numpy as np
import pytest
import small_trials
from verimargin import metrics
from verimargin.commands import thresholds
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.calibrations import CalibratedMethod, Calibrations, FarThreshold
from verimargin.metrics import Interval, Threshold
from verimargin.scoring.calibration import Calibration
from verimargin.scoring.methods import COSINE


def as_it_is(steps, title):
    return steps


@pytest.fixture
def lists(tmp_path):
    folder = small_trials.make(tmp_path)
    return [read_trial_set(folder / "e.npz", folder / f"{name}.txt") for name in ("dev", "trials")]


def test_found_on_one_list_and_judged_on_another(lists, tmp_path):
    dev, judged = lists
    on_dev, on_judged = (one.scores([COSINE], "cpu", as_it_is)["cosine"] for one in lists)
    found = thresholds.find(dev, on_dev, [0.1, 0.01], True, as_it_is)
    assert found == metrics.thresholds_at_far(on_dev, dev.trials.same, *dev.identities, [0.1, 0.01])
    rows = thresholds.judge({"cosine": found, "not asked for": found}, {"cosine": "The cosine"}, judged,
                            {"cosine": on_judged}, True, as_it_is)  # fmt: skip
    assert [(row.method, row.threshold) for row in rows] == [("The cosine", one) for one in found]
    same = judged.trials.same
    for row in rows:
        assert row.judged.false_accept == (on_judged[~same] > row.threshold.value).mean()
        assert row.judged.false_reject == (on_judged[same] <= row.threshold.value).mean()
    text = thresholds.write(tmp_path, rows, "dev.txt")
    assert "found on dev.txt" in text
    low, high = rows[0].judged.false_accept_interval
    assert f"{100 * rows[0].judged.false_accept:.4g} [{100 * low:.3g}, {100 * high:.3g}]" in text
    with open(tmp_path / "thresholds.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert len(lines) == 3
    assert [float(value) for value in lines[1][1:5]] == [0.1, found[0].value, *found[0].interval]
    assert [float(value) for value in lines[1][5:8]] == [rows[0].judged.false_accept, low, high]


def test_without_intervals_nothing_stands_in_their_place(lists, tmp_path):
    judged = lists[1]
    scores = judged.scores([COSINE], "cpu", as_it_is)["cosine"]
    rows = thresholds.judge(
        {"cosine": [Threshold(0.1, 0.5, None)]}, {"cosine": "cosine"}, judged, {"cosine": scores}, False, as_it_is
    )
    assert "[" not in thresholds.write(tmp_path, rows, "dev.txt")
    assert (tmp_path / "thresholds.csv").read_text().splitlines()[1].startswith("cosine,0.1,0.5,,,")
    assert np.isfinite(rows[0].judged[:2]).all()


def test_those_of_a_calibration(tmp_path):
    kept = [FarThreshold(0.1, 1.5, (1.0, 2.0)), FarThreshold(0.01, 3.0, None)]
    calibrations = Calibrations({}, "", 0.5, {}, {"ida-r": CalibratedMethod("IDA-R", Calibration(0.0, 1.0), kept)})
    assert thresholds.stored(tmp_path, calibrations, [0.01, 0.1]) == {
        "ida-r-calibrated": [Threshold(0.01, 3.0, None), Threshold(0.1, 1.5, Interval(1.0, 2.0))]
    }
    with pytest.raises(ValueError, match=r"no threshold for the FAR 0\.05, only for 0\.1, 0\.01: give one of these"):
        thresholds.stored(tmp_path, calibrations, [0.1, 0.05])


def test_a_list_that_is_too_short_is_named(lists, tmp_path):
    thresholds.check(tmp_path / "dev.txt", lists[0], [0.1])
    with pytest.raises(ValueError, match=r"dev\.txt: a FAR of 1e-06 is less than one of 3,000 non-target trials"):
        thresholds.check(tmp_path / "dev.txt", lists[0], [0.1, 1e-6])
