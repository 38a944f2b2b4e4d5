import csv
import io

import numpy as np
import pytest
from verimargin import metrics
from verimargin.commands import report
from verimargin.commands.page import literal
from verimargin.commands.report import Value
from verimargin.metrics import Interval

ROWS = {
    "cosine": {"EER %": Value(12.34567, Interval(10.0, 15.0)), "TAR": Value(np.nan)},
    "IDA": {"EER %": Value(2.0), "TAR": Value(99.5)},
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(12.34567), "12.35"),
        (Value(12.34567, Interval(1.23456, 100.0)), "12.35 [1.23, 100]"),
        (Value(np.nan), "-"),
        (Value(np.nan, Interval(0.0, 1.0)), "-"),
        (Value(0.0), "0"),
    ],
)
def test_a_figure_in_text(value, text):
    assert str(value) == text


def test_a_table_in_markdown_and_as_csv(tmp_path):
    text = report.write_table(tmp_path, ROWS, "The note.")
    assert text == (
        "| method | EER % | TAR |\n"
        "| --- | ---: | ---: |\n"
        "| cosine | 12.35 [10, 15] | - |\n"
        "| IDA | 2 | 99.5 |\n\n"
        "The note."
    )
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["method", "figure", "value", "low", "high"],
            ["cosine", "EER %", "12.3457", "10", "15"],
            ["IDA", "EER %", "2", "", ""],
            ["IDA", "TAR", "99.5", "", ""],
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_csv_that_breaks_off_leaves_nothing(tmp_path):
    def rows():
        yield [1, 2]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        report.write_csv(tmp_path / "a.csv", ["a", "b"], rows())
    assert not list(tmp_path.iterdir())


def problem():
    """Two identities of three utterances, all pairs; one non-target trial scores as high as a target one."""
    who = np.array([0, 0, 0, 1, 1, 1])
    a, b = np.triu_indices(6, 1)
    same = who[a] == who[b]
    scores = np.where(same, 2.0, 0.0) + np.arange(15) / 100
    scores[np.flatnonzero(~same)[0]] = 2.5
    return scores, same, (who[a], who[b])


@pytest.mark.parametrize("far", [None, 0.2])
def test_figures_and_thresholds_are_those_of_the_metrics(far):
    scores, same, identities = problem()
    result = report.evaluate(scores, same, identities, 0, far)
    eer, threshold = metrics.eer(scores[same], scores[~same])
    assert result.figures["EER %"] == Value(pytest.approx(100 * eer))
    assert result.figures["TAR % at FAR 1e-1"].interval is None
    assert np.isnan(result.figures["TAR % at FAR 1e-1"].value)  # it takes 10 non-target trials, and there are 9
    if far is not None:
        rate, threshold = metrics.tar_at_far(scores[same], scores[~same], far=far)
        assert rate == 1.0
    assert result.threshold == threshold
    assert set(result.curve.threshold) <= set(metrics.det_curve(scores[same], scores[~same]).threshold)


def test_intervals_are_in_percent_and_their_progress_is_shown():
    random = np.random.default_rng(0)
    a, b = random.integers(8, size=(2, 400))
    scores, same = random.normal(size=400) + (a == b), a == b
    shown = []
    result = report.evaluate(scores, same, (a, b), True, progress=lambda steps: shown.append(len(steps)) or steps)
    low, high = metrics.confidence_interval(metrics.eer, scores, same, a, b)
    assert result.figures["EER %"].interval == pytest.approx((100 * low, 100 * high))
    assert shown == [8]  # one group of trials is left out for each of the 8 identities


def test_the_note_says_how_intervals_were_made_if_there_are_any():
    dash = "A dash: there are too few non-target trials for this FAR."
    assert report.note(40, False) == dash
    assert report.note(40, True) == f"Brackets: 95 % intervals over the 40 identities, if these are enough. {dash}"


@pytest.mark.parametrize("methods", [2, 5])
def test_the_table_on_a_terminal_leaves_intervals_out_where_the_methods_are_many(methods):
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=200, record=True, file=io.StringIO())
    report.print_table(console, "Title", {f"method {n}": ROWS["cosine"] for n in range(methods)})
    text = console.export_text()
    assert "Title" in text
    assert text.count("12.35") == methods
    assert text.count("[10, 15]") == (methods if methods < 5 else 0)


def test_an_eer_above_one_half_is_told():
    assert report.upside_down(ROWS) == ""
    text = report.upside_down({**ROWS, "IDA": {"EER %": Value(87.5)}})
    assert text.startswith("The EER is above 50 % (IDA 87.5 %), which is worse than chance")
    assert "It is not the labels" in text
    text = report.upside_down({"cosine": {"EER %": Value(87.5)}, "IDA": {"EER %": Value(90.0)}})
    assert "(cosine 87.5 %, IDA 90 %)" in text
    assert "the labels are swapped" in text


def test_the_terminal_shows_texts_as_they_are_and_no_figures(tmp_path, capsys):
    parts = [f"Some [red]text[/red] on {literal('dev [1]_.txt')}:\n\n| a | b |\n\n![Figure](a.png)"]
    report.show(tmp_path, "Title", ROWS, ["", "A warning about [x].txt"], parts)
    shown = capsys.readouterr().out
    assert "A warning about [x].txt" in shown
    assert "Some [red]text[/red] on dev [1]_.txt:\n\n| a | b |" in shown
    assert "Figure" not in shown
