import csv
from dataclasses import replace

import numpy as np
import pytest
import small_trials
from verimargin import metrics
from verimargin.commands import calibrated
from verimargin.commands.chosen_methods import choose_methods
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.calibrations import CalibratedMethod, Calibrations, digest
from verimargin.scoring.calibration import Calibration


def as_it_is(steps, title):
    return steps


@pytest.fixture
def given(tmp_path):
    folder = small_trials.make(tmp_path)
    trial_set = read_trial_set(folder / "e.npz", folder / "trials.txt")
    chosen = choose_methods(trial_set, folder / "cohort.npz", 5, None, 10, 1.0, None, "cpu")
    methods = {
        "cosine": CalibratedMethod("cosine", Calibration(-2.0, 8.0, {"size": (0.5, -0.25)}), []),
        "s-norm": CalibratedMethod("s-norm", Calibration(-1.0, 1.5), []),
    }
    return folder, trial_set, chosen, Calibrations({"sha256": ""}, "abc", 0.5, dict(chosen.inputs), methods)


def test_scores_with_and_without_a_calibration(given):
    _, trial_set, chosen, calibrations = given
    plain = calibrated.scored(trial_set, chosen, None, "cpu", as_it_is, 2**20)
    assert list(plain) == ["cosine", "s-norm", "adaptive-s-norm"]
    scores = calibrated.scored(trial_set, chosen, calibrations, "cpu", as_it_is, 2**20)
    assert list(scores) == [*plain, "cosine-calibrated", "s-norm-calibrated"]
    np.testing.assert_allclose(scores["s-norm-calibrated"], 1.5 * plain["s-norm"] - 1.0, rtol=1e-5, atol=1e-6)
    e, t = (np.log(trial_set.embeddings.sizes[side]) for side in (trial_set.trials.enrol, trial_set.trials.test))
    expected = 8.0 * plain["cosine"] - 2.0 + 0.5 * np.minimum(e, t) - 0.25 * np.maximum(e, t)
    np.testing.assert_allclose(scores["cosine-calibrated"], expected, rtol=1e-5, atol=1e-6)
    assert scores["cosine-calibrated"].dtype == np.float32
    titles = calibrated.titles_of(chosen.methods, calibrations)
    assert list(titles) == list(scores)
    assert titles["s-norm-calibrated"] == "s-norm, calibrated"
    ranking = calibrated.those_that_rank(titles, calibrations)
    assert list(ranking) == [*plain, "cosine-calibrated"]  # the order of s-norm's trials stays as it is


def test_figures_before_and_after(given, tmp_path):
    _, trial_set, chosen, calibrations = given
    scores = calibrated.scored(trial_set, chosen, calibrations, "cpu", as_it_is, 2**20)
    same = trial_set.trials.same
    before, after = (calibrated.figures_of(scores[name], same) for name in ("cosine", "cosine-calibrated"))
    for figures, name in ((before, "cosine"), (after, "cosine-calibrated")):
        sides = scores[name][same], scores[name][~same]
        costs = 100 * metrics.min_dcf(*sides)[0], 100 * metrics.actual_dcf(*sides)[0]
        assert figures[:4] == pytest.approx((*costs, metrics.min_cllr(*sides), metrics.cllr(*sides)))
    text = calibrated.write_figures(tmp_path, {"cosine": before}, {"cosine": after})
    assert f"| cosine | after | {after.min_dcf:.4g} | {after.actual_dcf:.4g} | {after.min_cllr:.4g} |" in text
    with open(tmp_path / "calibration.csv", newline="") as file:
        assert [float(v) for v in list(csv.reader(file))[1][2:]] == list(before[:4])
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "png" not in calibrated.write_figures(None, {"cosine": before}, {"cosine": after})


def test_what_does_not_fit_is_named(given):
    folder, trial_set, chosen, calibrations = given
    trials = folder / "trials.txt"
    calibrated.check_fits(folder / "c.json", calibrations, trials, trial_set, chosen)
    renamed = {"s-norm": replace(calibrations.methods["s-norm"], title="s-norm of old")}
    for changed, message in (
        ({"trials": {"sha256": digest(trials)}}, r"c\.json was fitted on .*trials\.txt itself"),
        ({"encoder": "def"}, "made with the encoder def, but the embeddings with abc"),
        ({"inputs": {"cohort": "123"}}, "fitted with another cohort than the one given"),
        ({"inputs": {"cohort_size": "300"}}, "fitted with another cohort size than the one given"),
        ({"methods": {}}, "calibrates none of the methods that were asked for"),
        ({"methods": renamed}, "calibrates s-norm of old, but s-norm was asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrated.check_fits(folder / "c.json", replace(calibrations, **changed), trials, trial_set, chosen)
