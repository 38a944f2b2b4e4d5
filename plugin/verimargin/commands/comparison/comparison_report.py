"""The report of `verimargin compare`: report.md and tables, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ... import metrics
from ...scoring.methods import COSINE
from .. import report, sections
from ..page import Report, code, literal
from . import pictures
from .experiment import Experiment
from .run import LOG, Run, expected_seconds
from .runner import Failure, clock
from .verdicts import Scores, Verdict

Figures = Mapping[str, Mapping[str, report.Value]]  # by loss and column


def write_report(
    experiment: Experiment,
    runs: Sequence[Run],
    failures: Sequence[Failure],
    scores: Scores | None,
    figures: Mapping[str, Figures],
    verdicts: Sequence[Verdict],
    recipe_changes: str = "",
) -> None:
    """Write report.md, report.html and their tables as .csv to the folder of the experiment.

    The section of recipe_changes stands before the experiment.
    """
    out = experiment.out
    parts = [data_note(experiment, runs, scores), *map(literal, experiment.notes())]
    if scores:
        by_loss = figures[COSINE.name]
        note = "Mean over the seeds, by the cosine. " + report.note(identities_of(scores), True) + training_note(scores)
        curves = pictures.write_curves(out, scores, f"{experiment.trials.name}, cosine")
        parts += ["## Figures", report.write_table(out, by_loss, note), curves]
        if verdicts:
            parts += ["## Which is better", pictures.write_forest(out, verdicts), write_verdicts(out, verdicts)]
        elif len(by_loss) > 1:
            parts += ["There are too few identities to say which loss is better."]
        if len(figures) > 1:
            parts += ["## With other scores", write_methods(out, figures)]
        parts += ["## Runs", write_runs(out, runs, scores)]
    if failures:
        parts += ["## Failed runs", *map(failure_text, failures)]
    parts += [recipe_changes, "## Experiment", code(experiment.text, "yaml"), sections.versions({})]
    Report(f"Comparison of {len(experiment.losses)} losses", parts).write(out)


def identities_of(scores: Scores) -> int:
    return len(np.unique([scores.enrol, scores.test]))


def data_note(experiment: Experiment, runs: Sequence[Run], scores: Scores | None) -> str:
    finished = sum(run.finished for run in runs)
    text = f"{experiment.toolkit}, {literal(experiment.recipe)}: {finished} of {len(runs)} runs are finished. "
    if not scores:
        return text
    targets = int(scores.same.sum())
    return text + (
        f"{literal(experiment.trials.name)} has {targets:,} target and {len(scores.same) - targets:,} non-target "
        f"trials of {identities_of(scores)} identities, none of which should be among the training identities."
    )


def training_note(scores: Scores) -> str:
    """What the intervals say about the randomness of a training."""
    single = [loss for loss, seeds in scores.seeds.items() if len(seeds) == 1]
    if len(single) == len(scores.seeds):
        return " One seed of each loss: what another seed would have given is not in the intervals."
    text = " The intervals are over identities and seeds together."
    if single:
        text += (
            f" {', '.join(single)} has one seed, whose randomness is only in the comparisons, as that of the others."
        )
    return text


def write_verdicts(out: Path, verdicts: Sequence[Verdict]) -> str:
    head = ["loss", "against", "figure", "difference", "low", "high", "p", "verdict"]
    rows = [[v.loss, v.other, v.figure, v.difference, v.low, v.high, v.p_value, v.verdict] for v in verdicts]
    report.write_csv(out / "verdicts.csv", head, [[*row[:3], *(f"{x:.6g}" for x in row[3:7]), row[7]] for row in rows])
    shown = [
        [
            literal(v.loss),
            literal(v.other),
            v.figure,
            f"{v.difference:+.3g} [{v.low:+.3g}, {v.high:+.3g}]",
            f"{v.p_value:.2g}",
            v.verdict,
        ]
        for v in verdicts
    ]
    pairs = len({(v.loss, v.other) for v in verdicts})
    family = f", adjusted by Holm's method over the {pairs} pairs of losses" if pairs > 1 else ""
    return (
        report.markdown(["loss", "against", "figure", "difference [95 %]", "p", "verdict"], shown)
        + "\n\nThe trials are paired: both losses are judged on the same ones, and the intervals are over identities, "
        "and over the seeds of losses that have several. p is the chance of so large a difference, in either "
        f"direction, between two equally good losses{family}; it is not adjusted for the number of figures. A verdict "
        "needs p <= 0.05. An interval is that of its own pair and figure."
    )


def write_methods(out: Path, figures: Mapping[str, Figures]) -> str:
    """The mean figures of each loss by each scoring method."""
    rows = [(loss, method, list(row.values())) for method, found in figures.items() for loss, row in found.items()]
    head = ["loss", "score", *figures[COSINE.name][rows[0][0]]]
    csv = [[*names, *("" if np.isnan(v.value) else f"{v.value:.6g}" for v in values)] for *names, values in rows]
    report.write_csv(out / "methods.csv", head, csv)
    shown = [[literal(loss), method, *(v._replace(interval=None) for v in values)] for loss, method, values in rows]
    return report.markdown(head, shown) + "\n\nMeans over the seeds."


def write_runs(out: Path, runs: Sequence[Run], scores: Scores) -> str:
    """The figures of each finished run by the cosine, and the times of all."""
    table = {name: m for name, m in report.columns(int((~scores.same).sum())).items() if m}
    rows = []
    for run in runs:
        values = [""] * len(table)
        if run.finished:
            row = scores.by_loss[run.loss.title][scores.seeds[run.loss.title].index(run.seed)]
            curve = metrics.det_curve(row[scores.same], row[~scores.same])
            values = [f"{100 * metric(curve)[0]:.4g}" for metric in table.values()]
        rows.append([run.loss.title, run.seed, *values, clock(run.seconds)])
    head = ["loss", "seed", *table, "time"]
    report.write_csv(out / "runs.csv", head, rows)
    return (
        report.markdown(head, [[literal(str(row[0])), *row[1:]] for row in rows])
        + "\n\nSettings, versions, commands and log of each are in runs/."
    )


def failure_text(failure: Failure) -> str:
    where = literal(f"{failure.run.title}: {failure.reason}. The end of {failure.run.folder / LOG}:")
    return f"{where}\n\n{code(failure.log.replace('```', ''))}"


def plan_rows(runs: Sequence[Run]) -> list[list[str]]:
    """For each run, its state, the time that it has taken, and the time that it will take."""
    rows = []
    for run in runs:
        state = "finished" if run.finished else "cut" if run.state() else "to do"
        seconds = 0.0 if run.finished else expected_seconds(run, runs)
        rows.append([run.title, state, clock(run.seconds), "unknown" if seconds is None else clock(seconds)])
    return rows
