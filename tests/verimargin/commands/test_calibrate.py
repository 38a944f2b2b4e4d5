from pathlib import Path

import numpy as np
import pytest
import small_trials
from small_trials import run
from verimargin import metrics
from verimargin.commands import known_list
from verimargin.commands.calibrate import calibrate, resolved_fars
from verimargin.commands.score import score
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.calibrations import digest, read_calibrations
from verimargin.files.embeddings import Embeddings, read_embeddings, write_embeddings
from verimargin.scoring.calibration import fit_calibration


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(small_trials.make(tmp_path))
    return tmp_path


FILES = ["--cohort", "cohort.npz", "--cohort-size", 9, "--anchors", "cohort.npz", "--k", 4]
QUALITIES = ["--quality", "size", "--quality", "norm", "--quality", "cohort"]


def test_it_fits_each_method_and_keeps_thresholds(folder):
    result = run(calibrate, "e.npz", "dev.txt", "c.json", *FILES)
    found = read_calibrations("c.json")
    assert list(found.methods) == ["cosine", "s-norm", "adaptive-s-norm", "ida-r"]
    marks = known_list.marks(read_trial_set(Path("e.npz"), Path("dev.txt")))
    assert found.trials == {
        **marks, "name": "dev.txt", "sha256": digest("dev.txt"), "targets": 160, "non_targets": 3000, "identities": 16,
    }  # fmt: skip
    assert found.encoder == "abc"
    run(score, "e.npz", "dev.txt", "out", *FILES, "--no-intervals")
    with np.load("out/scores.npz") as saved:
        scores, same = {name: saved[name] for name in found.methods}, saved["same"]
    for name, method in found.methods.items():
        assert method.calibration == fit_calibration(scores[name], same)
        llr = method.calibration(scores[name])
        assert [t.far for t in method.thresholds] == [0.1, 0.01, 0.001]
        for t in method.thresholds:
            assert (llr[~same] > t.threshold + 1e-5).mean() <= t.far < (llr[~same] >= t.threshold - 1e-5).mean()
            assert t.interval[0] <= t.threshold <= t.interval[1]
    after = metrics.cllr(*(found.methods["cosine"].calibration(scores["cosine"][side]) for side in (same, ~same)))
    assert f"{after:.4g} |" in next(line for line in result.output.splitlines() if "| cosine | after" in line)
    assert "On these very trials" in result.output


def test_applied_to_other_trials_by_score(folder):
    run(calibrate, "e.npz", "dev.txt", "c.json", *FILES, *QUALITIES, "--far", 0.05, "--far", 0.05)
    result = run(score, "e.npz", "trials.txt", "out", *FILES, "--calibration", "c.json", "--far", 0.05, "--far", 0.05)
    with np.load("out/scores.npz") as saved:
        cosine, llr, same = saved["cosine"], saved["cosine-calibrated"], saved["same"]
    sides, before = (llr[same], llr[~same]), (cosine[same], cosine[~same])
    assert metrics.cllr(*sides) < min(0.9 * metrics.cllr(*before), 1.3 * metrics.min_cllr(*sides))
    assert metrics.actual_dcf(*sides, p_target=0.5)[0] < 0.6 * metrics.actual_dcf(*before, p_target=0.5)[0]
    assert metrics.eer(*sides)[0] < metrics.eer(*before)[0]  # durations are of use here
    text = (folder / "out" / "report.md").read_text()
    assert text.count("| cosine, calibrated | 0.05 |") == 1  # although it was asked for twice
    assert "Thresholds found on dev.txt, the list of c.json" in text
    assert "Before and after the calibration, which was fitted on dev.txt:" in text
    assert "| cosine, calibrated | 0.05 |" in result.output  # the terminal shows them too
    assert "| cosine | before |" in result.output
    assert "![" not in result.output
    assert "| cosine | before |" in text
    assert {"calibration.csv", "thresholds.csv", "reliability.png"} <= {
        path.name for path in (folder / "out").iterdir()
    }


def test_a_calibration_of_the_cosine_alone_leaves_the_others_as_they_are(folder):
    run(calibrate, "e.npz", "dev.txt", "c.json")
    run(score, "e.npz", "trials.txt", "out", *FILES, "--calibration", "c.json", "--no-intervals")
    text = (folder / "out" / "report.md").read_text()
    assert "Without a calibration in the file: s-norm, adaptive s-norm (9), IDA-R (k 4, tau 1)." in text
    assert "| cosine, calibrated |" not in text  # the same order of trials
    with np.load("out/scores.npz") as saved:
        assert (np.argsort(saved["cosine-calibrated"]) == np.argsort(saved["cosine"])).mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quality", "cohort"], "give them as --cohort"),
        (["--prior", 1], r"--prior is 1\.0: give a number in \(0, 1\)"),
        (["--far", 1e-5], "a FAR of 1e-05 is less than one of 3,000 non-target trials"),
        (["--far", 2], r"far is 2\.0"),
        (["--far", 1], r"far is 1\.0"),
        (["--k", 4], "--k is 4, a setting of IDA-R, but there are no anchors"),
        (["--cohort-size", 9], "--cohort-size is 9, but there is no cohort"),
        (["--cohort", "e.npz"], r"share embeddings \(80,"),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_written(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(calibrate, "e.npz", "dev.txt", "c.json", *arguments)
    assert not (folder / "c.json").exists()


def test_a_list_that_is_too_small_for_thresholds(folder):
    """It printed a table without columns."""
    lines = (folder / "dev.txt").read_text().splitlines()
    targets, others = ([line for line in lines if line[0] == kind][:9] for kind in "10")
    (folder / "small.txt").write_text("\n".join(targets + others))
    result = run(calibrate, "e.npz", "small.txt", "c.json", "--no-intervals")
    assert "No thresholds: 9 non-target trials are too few for a FAR of 0.1." in result.output
    assert read_calibrations("c.json").methods["cosine"].thresholds == []


def test_a_list_without_errors_is_refused(folder):
    held = read_embeddings("e.npz")
    close = held.vectors[[n // 5 * 5 for n in range(len(held.ids))]] + 1e-3 * held.vectors
    write_embeddings("clear.npz", Embeddings(held.ids, close))
    with pytest.raises(ValueError, match="separate the targets of this list from its non-targets without an error"):
        run(calibrate, "clear.npz", "dev.txt", "c.json")


def test_a_calibration_is_not_judged_on_its_own_list(folder):
    run(calibrate, "e.npz", "dev.txt", "c.json", "--no-intervals")
    lines = (folder / "dev.txt").read_text().splitlines()
    for name, listed in (("copy", lines), ("reversed", lines[::-1])):
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
        with pytest.raises(ValueError, match=rf"c\.json was fitted on {name}\.txt itself"):
            run(score, "e.npz", f"{name}.txt", "out", "--calibration", "c.json")
    assert not (folder / "out").exists()


def test_identities_that_it_was_fitted_on_are_named(folder):
    """A part of the list, or other trials of its people, went unnoticed."""
    run(calibrate, "e.npz", "dev.txt", "c.json", "--no-intervals")
    ids = read_embeddings("e.npz").ids
    small_trials.write_list(folder / "mixed.txt", [*ids[5:15], *ids[-20:]])
    result = run(score, "e.npz", "mixed.txt", "out", "--calibration", "c.json", "--no-intervals")
    for text in (result.output, (folder / "out" / "report.md").read_text()):
        assert (
            "c.json was fitted on dev.txt, which shares identities or embeddings with mixed.txt (2, such as"
            in " ".join(text.split())
        )
    result = run(score, "e.npz", "trials.txt", "others", "--calibration", "c.json", "--no-intervals")
    assert "which shares" not in result.output


def test_a_cohort_that_is_taken_whole_is_told(folder):
    assert "it is the same as s-norm" in " ".join(
        run(calibrate, "e.npz", "dev.txt", "c.json", "--cohort", "cohort.npz", "--no-intervals").output.split()
    )


def test_the_fars_that_a_list_resolves():
    assert resolved_fars(999) == [0.1, 0.01]
    assert resolved_fars(1000) == [0.1, 0.01, 0.001]
