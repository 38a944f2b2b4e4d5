import csv
from dataclasses import replace

from small_experiment import EXPERIMENT, plain, scores_with, write_experiment
from verimargin.commands.comparison import comparison_report, verdicts
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.commands.comparison.run import runs_of
from verimargin.commands.comparison.runner import Failure


def written(tmp_path, scores, failures=(), text=EXPERIMENT):
    """The report of three finished seeds of each loss, and the runs."""
    experiment = read_experiment(write_experiment(tmp_path, text.replace("[1, 2]", "[1, 2, 3]")))
    runs = runs_of(experiment)
    for run in runs:
        run.begin({})
        run.note("train", 61.0, True)
        run.note("evaluate", 1.0, run.title not in failures)
    figures = {name: verdicts.figures(scores, plain) for name in ("cosine", "snorm")} if scores else {}
    judged = verdicts.verdicts(scores, plain) if scores else []
    failed = [Failure(run, "train ended with status 1", "cannot <read> `x`") for run in runs if run.title in failures]
    comparison_report.write_report(experiment, runs, failed, scores, figures, judged)
    return (experiment.out / "report.md").read_text(), runs


def test_the_report_has_the_tables_and_what_made_them(tmp_path):
    scores = scores_with(**{"ArcFace": 1.0, "Q-Margin": 0.3})
    text, _ = written(tmp_path, scores)
    assert "6 of 6 runs are finished" in text
    assert "160 target and 3,000 non-target trials of 16 identities" in text
    assert "over identities and seeds together" in text
    assert "| Q-Margin | ArcFace | EER % | -" in text
    assert "| better |" in text
    assert "Holm" not in text  # for one pair of losses
    assert "| ArcFace | 2 |" in text
    assert "0:01:02" in text
    assert "loss: q_margin, alpha: 1.5" in text
    assert "torch" in text
    out = tmp_path / "out"
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 2
    for name in ("det", "differences"):
        assert f"({name}.png)" in text
        assert (out / f"{name}.png").is_file()
    rows = list(csv.DictReader((out / "verdicts.csv").open()))
    assert rows[0]["verdict"] == "better"
    assert float(rows[0]["high"]) < 0
    assert {row["score"] for row in csv.DictReader((out / "methods.csv").open())} == {"cosine", "snorm"}
    assert len(list(csv.DictReader((out / "runs.csv").open()))) == 6
    assert len(list(csv.DictReader((out / "table.csv").open()))) >= 6


def test_a_failed_run_is_shown_with_the_end_of_its_log(tmp_path):
    scores = scores_with(**{"ArcFace": 1.0, "Q-Margin": 0.3})
    text, _ = written(tmp_path, scores, ["ArcFace, seed 3"])
    assert "5 of 6 runs are finished" in text
    assert "## Failed runs" in text
    assert "train ended with status 1" in text
    assert "cannot <read> `x`" in text
    assert "cannot &lt;read&gt;" in (tmp_path / "out" / "report.html").read_text()


def test_the_verdicts_on_three_losses_say_that_they_are_adjusted(tmp_path):
    text = comparison_report.write_verdicts(tmp_path, verdicts.verdicts(scores_with(a=1.0, b=0.4, c=0.3), plain))
    assert "two equally good losses, adjusted by Holm's method over the 3 pairs of losses; it is not" in text


def test_a_report_without_a_finished_run(tmp_path):
    everything = [f"{loss}, seed {seed}" for loss in ("ArcFace", "Q-Margin") for seed in (1, 2, 3)]
    text, _ = written(tmp_path, None, everything)
    assert "0 of 6 runs are finished" in text
    assert "Figures" not in text


def test_one_seed_says_what_it_does_not_cover():
    scores = scores_with(a=0.4, b=0.4)
    single = replace(scores, seeds={"a": [1], "b": [1]})
    assert "what another seed would have given is not in the intervals" in comparison_report.training_note(single)
    mixed = replace(scores, seeds={"a": [1, 2], "b": [1]})
    assert "b has one seed" in comparison_report.training_note(mixed)


def test_the_plan(tmp_path):
    _, runs = written(tmp_path, None, ["ArcFace, seed 2"])
    rows = comparison_report.plan_rows(runs)
    assert rows[0] == ["ArcFace, seed 1", "finished", "0:01:02", "0:00:00"]
    assert rows[2] == ["ArcFace, seed 2", "cut", "0:01:02", "0:00:00"]
