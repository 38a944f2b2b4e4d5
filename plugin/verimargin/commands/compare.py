"""`verimargin compare`: trains several losses with several seeds, and says which is better."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files.whole import alone, whole
from ..scoring.methods import COSINE
from . import report
from .comparison import comparison_report, recipe_changes, verdicts
from .comparison.experiment import Experiment, read_experiment
from .comparison.run import EVALUATION, TRAIN, Run, expected_seconds, runs_of
from .comparison.runner import Failure, clock, run_all
from .comparison.toolkit import Step, Toolkit, find_toolkit
from .environment import describe
from .progress import progress

if TYPE_CHECKING:
    from rich.console import Console


def compare(
    experiment: Annotated[Path, typer.Argument(help="a YAML file; `verimargin hparams` has examples")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the runs, and the time that they take")] = False,
) -> None:
    """Train each loss of an EXPERIMENT with each seed by the toolkit's own script, score all, and write a report.

    The same command continues after an interruption, and repeats the runs that have failed. Seeds and losses can be
    added to the file.
    """
    from rich.console import Console

    read = read_experiment(experiment)
    toolkit = find_toolkit(read.toolkit)
    compare_with(toolkit, read, dry_run, Console())


def compare_with(toolkit: Toolkit, experiment: Experiment, dry_run: bool, console: Console) -> None:
    """`compare`, by the adapter of a toolkit."""
    toolkit.check(experiment)
    changes = recipe_changes.section(toolkit, experiment)
    runs = runs_of(experiment)
    for note in experiment.notes():
        console.print(f"Note: {note}", highlight=False, markup=False)
    if dry_run:
        show_plan(runs, len(experiment.devices), console)
        return
    (experiment.out / "runs").mkdir(parents=True, exist_ok=True)
    with alone(experiment.out / "runs"):
        with whole(experiment.out / "experiment.yaml") as file:
            file.write_text(experiment.text, encoding="utf-8")
        failures = run_all(runs, experiment.devices, partial(steps_of, toolkit, experiment), describe(), console)
        report_on(experiment, runs, failures, changes, console)
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(runs)} runs failed: {', '.join(f.run.title for f in failures)}; their logs are "
            f"in {experiment.out / 'runs'}, and the same command tries them again"
        )


def steps_of(toolkit: Toolkit, experiment: Experiment, run: Run, devices: Sequence[str]) -> list[Step]:
    """The training of a run, and its evaluation."""
    training = toolkit.training(experiment, run.loss, run.seed, devices, run.folder)
    return [training, evaluation(experiment, run.folder, devices[0], training.folder)]


def evaluation(experiment: Experiment, folder: Path, device: str, started_in: Path) -> Step:
    """`verimargin evaluate` of what the training left in the folder."""
    options: dict[str, Path | str] = {"--trials": experiment.trials, "--train": experiment.data, "--device": device}
    if experiment.test_data:
        options["--data"] = experiment.test_data
    command = [sys.executable, "-m", "verimargin.commands", "evaluate", str(folder / TRAIN), str(folder / EVALUATION)]
    command += [str(text) for option in options.items() for text in option]
    return Step("evaluate", [*command, "--no-intervals"], started_in)


def show_plan(runs: Sequence[Run], devices: int, console: Console) -> None:
    from rich.table import Table

    table = Table("run", "state", "time taken", "time to come")
    for row in comparison_report.plan_rows(runs):
        table.add_row(*row)
    console.print(table)
    expected = [expected_seconds(run, runs) for run in runs if not run.finished]
    known = [seconds for seconds in expected if seconds is not None]
    if len(known) < len(expected):
        console.print("The time is unknown until a run has finished.")
    elif known:
        whole = max(sum(known) / devices, max(known))
        console.print(f"{len(known)} runs to come, some {clock(whole)} with {devices} at a time.", highlight=False)


def report_on(
    experiment: Experiment, runs: Sequence[Run], failures: Sequence[Failure], changes: str, console: Console
) -> None:
    """Write the report on the finished runs, and print its tables."""
    finished = [run for run in runs if run.finished]
    scores, figures, judged = None, {}, []
    if finished:
        scores = verdicts.read_scores(finished, COSINE.name)
        figures = {COSINE.name: verdicts.figures(scores, progress)}
        judged = verdicts.verdicts(scores, progress)
        for method in verdicts.methods_of(finished):
            if method != COSINE.name:
                figures[method] = verdicts.figures(verdicts.read_scores(finished, method), progress, intervals=False)
    comparison_report.write_report(experiment, runs, failures, scores, figures, judged, changes)
    if scores:
        report.print_table(console, "mean over the seeds", figures[COSINE.name])
        for v in judged:
            interval = f"{v.difference:+.3g} [{v.low:+.3g}, {v.high:+.3g}]"
            console.print(f"{v.loss} against {v.other}, {v.figure}: {interval}: {v.verdict}", highlight=False)
    console.print(f"Report: {experiment.out / 'report.html'}, and report.md for terminals", highlight=False)
