import inspect
import io

import pytest
from rich.console import Console
from small_experiment import EXPERIMENT, SmallToolkit, evaluation, write_experiment
from verimargin.commands import compare as command
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.commands.evaluate import evaluate
from verimargin.files.whole import alone


@pytest.fixture
def compare(monkeypatch):
    """The command on an experiment file, by the small toolkit; returns what it printed."""
    monkeypatch.setattr(command, "evaluation", evaluation)

    def run(path, dry_run=False):
        console = Console(record=True, width=200, file=io.StringIO())
        try:
            command.compare_with(SmallToolkit(), read_experiment(path), dry_run, console)
        finally:
            run.printed = console.export_text()
        return run.printed

    return run


def test_from_an_experiment_file_to_a_verdict(compare, tmp_path):
    printed = compare(write_experiment(tmp_path))
    assert "Q-Margin against ArcFace, EER %: -" in printed
    assert "better" in printed
    report = (tmp_path / "out" / "report.md").read_text()
    assert "4 of 4 runs are finished" in report
    assert "+noise: 0.9" in report
    assert (tmp_path / "out" / "experiment.yaml").read_text() == EXPERIMENT


def test_a_dry_run_writes_nothing_and_knows_the_time_of_finished_runs(compare, tmp_path):
    path = write_experiment(tmp_path)
    assert "unknown until a run has finished" in compare(path, dry_run=True)
    assert not (tmp_path / "out").exists()
    compare(path)
    path.write_text(EXPERIMENT.replace("[1, 2]", "[1, 2, 3]"))
    printed = compare(path, dry_run=True)
    assert printed.count("finished") == 4
    assert "2 runs to come, some 0:00:0" in printed


def test_one_loss_under_two_titles_is_trained_and_told(compare, tmp_path):
    path = write_experiment(tmp_path, EXPERIMENT.replace("q_margin, alpha: 1.5", "arcface").replace("0.2", "0.9"))
    assert "Note: Q-Margin and ArcFace are the same loss" in compare(path, dry_run=True)
    compare(path)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Q-Margin and ArcFace are the same loss with the same settings." in report
    assert "| Q-Margin | ArcFace | EER % | +0 [" in report


def test_a_failed_run_is_told_and_the_report_is_written(compare, tmp_path):
    path = write_experiment(tmp_path, EXPERIMENT.replace("noise: 0.9", "noise: 0.9, fail: 2"))
    with pytest.raises(ValueError, match="1 of 4 runs failed: ArcFace, seed 2"):
        compare(path)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "no more data" in report
    assert "ArcFace has one seed" in report
    assert "| Q-Margin | ArcFace | EER %" in report


def test_nothing_is_reported_where_all_runs_fail(compare, tmp_path):
    path = write_experiment(
        tmp_path, EXPERIMENT.replace("settings: {noise", "settings: {fail: 1, noise").replace("[1, 2]", "[1]")
    )
    with pytest.raises(ValueError, match="2 of 2 runs failed"):
        compare(path)
    assert "0 of 2 runs are finished" in (tmp_path / "out" / "report.md").read_text()


def test_two_compares_in_one_folder_are_refused(compare, tmp_path):
    (tmp_path / "out" / "runs").mkdir(parents=True)
    with alone(tmp_path / "out" / "runs"), pytest.raises(ValueError, match="another process is writing"):
        compare(write_experiment(tmp_path))


def test_the_evaluation_is_that_of_the_package(tmp_path):
    experiment = read_experiment(write_experiment(tmp_path))
    step = command.evaluation(experiment, tmp_path / "run", "cuda:0", tmp_path)
    assert step.command[1:5] == ["-m", "verimargin.commands", "evaluate", str(tmp_path / "run" / "train")]
    options = dict(zip(step.command[6::2], step.command[7::2]))
    assert options["--trials"] == str(tmp_path / "trials.txt")
    assert options["--train"] == str(tmp_path / "data")
    assert options["--device"] == "cuda:0"
    known = [f"--{name.replace('_', '-')}" for name in inspect.signature(evaluate).parameters]
    assert {option.replace("no-", "") for option in step.command if option.startswith("--")} <= set(known)
