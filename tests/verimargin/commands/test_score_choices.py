import numpy as np
import pytest
import small_trials
from small_trials import run
from verimargin.commands.score import score
from verimargin.commands.score_choices import tau_of


@pytest.fixture
def two_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(small_trials.make(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tau", "auto", "--dev", "dev.txt"], "give --anchors and --dev"),
        (["--tau", "auto", "--anchors", "cohort.npz"], "give --anchors and --dev"),
        (["--tau", "small"], "--tau is 'small': give a number, or auto"),
        (["--far", 0.1], "must not be found on the trials that it is judged on: give other trials as --dev"),
        (["--dev", "dev.txt"], "nothing is chosen on it: give --far, or --tau auto"),
        (["--dev-embeddings", "e.npz"], "belong to a list: give it as --dev"),
        (["--dev", "trials.txt", "--far", 0.1], r"--dev is trials\.txt, the list that is judged"),
        (["--dev", "dev.txt", "--far", 1e-5], r"dev\.txt: a FAR of 1e-05 is less than one of 3,000"),
        (["--dev", "none.txt", "--far", 0.1], r"none\.txt does not exist"),
        (["--dev", "dev.txt", "--far", 0.1, "--cohort", "devs.npz"], r"share embeddings \(80, such as d0/0"),
        (["--dev", "dev.txt", "--far", 0.1, "--anchors", "devs.npz"], r"share embeddings \(80, such as d0/0"),
        (["--dev", "dev.txt", "--far", 1], r"--far is 1\.0: give a number in \(0, 1\)"),
        (["--at-far", 1], r"--at-far is 1\.0: give a number in \(0, 1\)"),
        (["--at-far", 0], r"--at-far is 0\.0: give a finite number > 0"),
        (["--at-far", 1e-9], r"trials\.txt: a FAR of 1e-09 is less than one of 2,275 non-target trials"),
        (["--cohort-size", 200], "--cohort-size is 200, but there is no cohort: give one as --cohort"),
        (
            ["--k", 5],
            "--k is 5, a setting of IDA-R, but there are no anchors: give them as --anchors",
        ),
        (["--cohort", "cohort.npz", "--tau", 1], "--tau is 1, a setting of IDA-R"),
        (["--regressor", "none.pt", "--k", 5], "the regressor of IDA-L has the k and tau that it was fitted with"),
        (["--calibration", "none.json"], "does not exist: make it with verimargin calibrate"),
    ],
)
def test_choices_that_cannot_be_made_are_named(two_lists, options, message):
    with np.load("e.npz") as held:
        np.savez("devs.npz", ids=held["ids"][:80], embeddings=held["embeddings"][:80])
    with pytest.raises(ValueError, match=message):
        run(score, "e.npz", "trials.txt", "out", *options)
    assert not (two_lists / "out").exists()


def test_a_tau_is_a_number_or_the_default():
    assert (tau_of("0.5"), tau_of(None)) == (0.5, 1.0)
