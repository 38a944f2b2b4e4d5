import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console
from verimargin import metrics
from verimargin.commands import demo_report, sections
from verimargin.commands.demo_report import Content, losses_told, scores_told
from verimargin.commands.demo_scores import METHODS, Cost, Run, Trials
from verimargin.commands.page import Sample, literal
from verimargin.commands.sections import Change

LOSSES = {"arcface": "Arc|Face", "qmargin": "Q-Margin"}


@pytest.fixture
def trials():
    labels = np.arange(30).repeat(3)
    samples = [f"p{k // 3}/{k % 3}" for k in range(90)]
    return Trials.all_pairs(labels, samples, [f"p{k}" for k in range(30)])


@pytest.fixture
def runs(trials):
    draw = np.random.default_rng(0)

    def scores(noise):
        return trials.same + noise * draw.normal(size=len(trials.i))

    noise = {"arcface": 1.0, "qmargin": 0.3}
    steps = {"arcface": 0.125, "qmargin": np.nan}
    return {
        loss: Run(title, {method: scores(noise[loss]) for method in METHODS}, steps[loss], Cost(0.00123, 4096))
        for loss, title in LOSSES.items()
    }


def content(trials, sample):
    return Content(
        title="the demo",
        kind="drawings",
        data="Drawings of 30 people.",
        sample=sample,
        pictures="a picture",
        training="## Training",
        batch=24,
        change="-old\n+new",
        recipe="a recipe",
        settings={"seed": 7},
    )


def picture(position, caption):
    return Sample(caption, b"data", "image/jpeg")


def test_a_report_has_all_its_parts(runs, trials, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    results = demo_report.write(tmp_path, runs, trials, content(trials, picture), console)
    html, text = ((tmp_path / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert results.keys() == {(loss, method) for loss in LOSSES for method in METHODS}
    with open(tmp_path / "table.csv", newline="") as file:
        table = {(row["method"], row["figure"]): float(row["value"]) for row in csv.DictReader(file)}
    for loss, method in results:
        scores = runs[loss].scores[method]
        expected = 100 * metrics.eer(scores[trials.same], scores[~trials.same])[0]
        assert table[f"{LOSSES[loss]}, {METHODS[method]}", "EER %"] == pytest.approx(expected, rel=1e-5)
    for part in ("Drawings of 30 people.", "a picture", "## Training", "In a recipe:", "| seed | 7 |"):
        assert part in text
    assert r"| Arc\|Face | 125 ms | 1.23 ms | 4 KiB |" in text
    assert "| Q-Margin | - | 1.23 ms | 4 KiB |" in text
    assert "for 24 samples" in text
    assert html.count("<svg ") == 3  # DET curves of losses and of scores, and distributions
    assert html.count("<img ") == 12  # of the three hardest
    with open(tmp_path / "differences.csv", newline="") as file:
        pairs = [(row["method"], row["compared with"]) for row in csv.DictReader(file) if row["figure"] == "EER %"]
    assert pairs == [
        ("Q-Margin", "Arc|Face"),
        *((f"{title}, {METHODS[m]}", f"{title}, cosine") for title in LOSSES.values() for m in list(METHODS)[1:]),
    ]
    printed = console.file.getvalue()
    assert "Open" in printed
    assert "The losses, scored by the cosine, change the EER of Arc|Face so: Q-Margin -" in printed
    short = re.search(r"\| EER % \| cosine \| s-norm \| IDA-R \| IDA-L \|\n.*\n(.*)\n(.*)\n", text)
    assert short[1].startswith(r"| Arc|Face |") or short[1].startswith(r"| Arc\|Face |")


def test_the_sentences_tell_the_verdicts_and_no_winner_that_they_do_not_show():
    changes = [
        Change("Q-Margin", "ArcFace", "EER %", -0.5, -0.8, -0.2, "better"),
        Change("Q-Margin", "ArcFace", "minDCF x 100", -0.5, -0.8, 0.2, "cannot be told"),
        Change("KappaFace", "ArcFace", "EER %", 0.1, -0.3, 0.5, "cannot be told"),
        Change("ArcFace, IDA-R", "ArcFace, cosine", "EER %", 0.25, 0.1, 0.4, "worse"),
        Change("Q-Margin, IDA-R", "Q-Margin, cosine", "EER %", -0.1, -0.4, 0.2, "cannot be told"),
    ]
    assert losses_told(changes) == (
        "The losses, scored by the cosine, change the EER of ArcFace so: Q-Margin -0.5 points [-0.8, -0.2], better; "
        "KappaFace +0.1 points [-0.3, 0.5], cannot be told."
    )
    assert scores_told(changes) == (
        "The scores change the EER of the cosine, with the same network, so: IDA-R -0.1 to +0.25 points (worse for 1 "
        "of 2 losses, cannot be told for 1 of 2 losses)."
    )
    assert losses_told([]) == scores_told([]) == ""


def test_the_samples_of_the_hardest_say_who_they_are(trials):
    same = trials.same
    own = int(np.flatnonzero(same & (trials.labels[trials.i] == 4))[0])
    other = int(np.flatnonzero((trials.labels[trials.i] == 2) & (trials.labels[trials.j] == 4))[0])
    asked = []

    def sample(position, caption):
        asked.append(position)
        return Sample(caption, b"", "image/png")

    scores = np.arange(len(trials.i)) / 10
    found = demo_report.samples([sections.Hard(4, 1.0, 0.5, own, other)], trials, scores, sample)
    i, j = trials.i, trials.j
    assert asked == [i[own], j[own], j[other], i[other]]
    assert [s.caption for s in found] == [
        f"{trials.samples[i[own]]}: p4",
        f"{trials.samples[j[own]]}: p4 too, with a score of only {scores[own]:.3g}",
        f"{trials.samples[j[other]]}: p4",
        f"{trials.samples[i[other]]}: not p4, with a score of {scores[other]:.3g}",
    ]


def test_titles_are_shown_as_they_are(runs):
    assert literal("Arc|Face") in demo_report.costs(runs, 8)
