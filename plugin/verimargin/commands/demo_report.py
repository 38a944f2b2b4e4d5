"""The report of a demo: losses, each scored by several methods, on all pairs of test samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..scoring.density_spread import density_spread
from . import plots, report, sections
from .demo_scores import METHODS, TAU, Run, Trials
from .page import Report, Sample, Samples, code, literal
from .progress import progress
from .sections import Change

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = "EER %", "TAR % at FAR 1e-2", "TAR % at FAR 1e-3"  # figures of the short tables
PRESENTED = 3  # of the hardest identities, with their samples
CHARTED = "qmargin"  # the loss whose scores are plotted

Results = dict[tuple[str, str], report.Result]  # by loss and method


class Content(NamedTuple):
    """What a demo's report says of its own.

    Attributes:
        title: of the report; kind: of the data, in the titles of plots, such as "drawn faces".
        data: a sentence about the data, and that they are not those of the papers.
        sample: the test sample with this position, with a caption.
        pictures, training: parts before the curves and after them.
        batch: of a training step.
        change: the lines that would change in a user's own recipe, as a diff; recipe: which recipe that is.
        settings: of the demo.
    """

    title: str
    kind: str
    data: str
    sample: Callable[[int, str], Sample]
    pictures: str
    training: str
    batch: int
    change: str
    recipe: str
    settings: Mapping[str, Any]


def write(output: Path, runs: Mapping[str, Run], trials: Trials, content: Content, console: Console) -> Results:
    """Evaluate the runs, by the name of the loss, write and show the report, and return the results."""
    same, identities = trials.same, trials.identities
    results: Results = {}
    for loss, run in runs.items():
        for method, scores in run.scores.items():
            shown = partial(progress, title=f"Intervals, {run.title}, {METHODS[method]}")
            results[loss, method] = report.evaluate(scores, same, identities, True, progress=shown)
    changes = _changes(runs, trials)
    warnings = [
        f"{run.title}: {warning}"
        for run in runs.values()
        if (warning := density_spread(run.scores["cosine"], run.scores["ida-r"], TAU).warning)
    ]
    rows = {f"{runs[loss].title}, {METHODS[method]}": result.figures for (loss, method), result in results.items()}
    measured = [figure for figure in SHOWN if not np.isnan(next(iter(rows.values()))[figure].value)]
    short = [_by_loss(runs, results, figure) for figure in measured]
    told = [sentence for sentence in (losses_told(changes), scores_told(changes)) if sentence]
    parts = [
        content.data,
        *map(literal, [*told, *warnings]),
        *(report.markdown(head, lines) for head, lines in short),
        content.pictures,
        "## All figures\n\n" + report.write_table(output, rows, report.note(len(trials.names), True)),
        sections.differences(output, changes),
        _curves(output, runs, results, same, content.kind),
        content.training,
        costs(runs, content.batch),
        *_hardest(runs, results, trials, content.sample),
        f"## In your recipe\n\nIn {content.recipe}:\n\n{code(content.change, 'diff')}",
        sections.versions(content.settings),
    ]
    Report(content.title, parts).write(output)
    for head, lines in short:
        _print(console, head, lines)
    for line in [content.data, *told, *warnings]:
        console.print(line, markup=False)
    console.print(f"Open {output / 'report.html'} in a browser, or read {output / 'report.md'}")
    return results


def _changes(runs: Mapping[str, Run], trials: Trials) -> list[Change]:
    """From the first loss to the others, by cosine; and from the cosine to the other methods, for each loss."""
    groups = [{run.title: run.scores["cosine"] for run in runs.values()}]
    for run in runs.values():
        groups.append({f"{run.title}, {METHODS[name]}": scores for name, scores in run.scores.items()})
    return [change for group in groups for change in sections.changes(group, trials.same, trials.identities, progress)]


def losses_told(changes: Sequence[Change]) -> str:
    """One sentence about the EERs of the losses, by cosine; empty without intervals."""
    found = [c for c in changes if c.figure == "EER %" and ", cosine" not in c.compared_with]
    if not found:
        return ""
    told = "; ".join(f"{c.method} {_points(c)}" for c in found)
    return f"The losses, scored by the cosine, change the EER of {found[0].compared_with} so: {told}."


def scores_told(changes: Sequence[Change]) -> str:
    """One sentence about the EERs of the methods, for all losses; empty without intervals."""
    found = [c for c in changes if c.figure == "EER %" and c.compared_with.endswith(", cosine")]
    told = []
    for method in [title for name, title in METHODS.items() if name != "cosine"]:
        mine = [c for c in found if c.method.endswith(f", {method}")]
        if mine:
            low, high = min(c.change for c in mine), max(c.change for c in mine)
            counts = ", ".join(f"{verdict} for {n} of {len(mine)} losses" for verdict, n in _counted(mine).items())
            told.append(f"{method} {low:+.2g} to {high:+.2g} points ({counts})")
    if not told:
        return ""
    return f"The scores change the EER of the cosine, with the same network, so: {'; '.join(told)}."


def _counted(changes: Sequence[Change]) -> Counter[str]:
    return Counter(change.verdict for change in changes)


def _points(change: Change) -> str:
    return f"{change.change:+.2g} points [{change.low:.2g}, {change.high:.2g}], {change.verdict}"


def _by_loss(runs: Mapping[str, Run], results: Results, figure: str) -> tuple[list[str], list[list[str]]]:
    """A table of one figure: a row for each loss, a column for each method."""
    lines = [
        [run.title, *(str(results[loss, method].figures[figure]._replace(interval=None)) for method in METHODS)]
        for loss, run in runs.items()
    ]
    return [figure, *METHODS.values()], lines


def _curves(output: Path, runs: Mapping[str, Run], results: Results, same: np.ndarray, kind: str) -> str:
    by_loss = {runs[loss].title: r.curve for (loss, method), r in results.items() if method == "cosine"}
    by_method = {METHODS[method]: r.curve for (loss, method), r in results.items() if loss == CHARTED}
    plots.det(output / "det_losses.png", by_loss, f"{kind}, cosine")
    plots.det(output / "det_scores.png", by_method, f"{kind}, {runs[CHARTED].title}")
    plots.distributions(output / "distributions.png", {r.title: r.scores["cosine"] for r in runs.values()}, same)
    return (
        "## Curves\n\n![DET curves of the losses](det_losses.png)\n\n![DET curves of the scores](det_scores.png)\n\n"
        "![Distributions of the cosines](distributions.png)"
    )


def costs(runs: Mapping[str, Run], batch: int) -> str:
    """What a step of each loss takes, as Markdown."""
    rows = []
    for run in runs.values():
        step = "-" if np.isnan(run.step_seconds) else f"{1000 * run.step_seconds:.0f} ms"
        kept = f"{run.cost.kept / 2**10:.0f} KiB"
        rows.append([literal(run.title), step, f"{1000 * run.cost.seconds:.2f} ms", kept])
    table = report.markdown(["loss", "training step", "classifier and loss", "kept for the backward pass"], rows)
    note = (
        f"CPU time in one thread, for {batch} samples. The last two columns are of the classifier and the loss alone, "
        "which matter little with so few classes. For many classes, `verimargin plan` tells what a head takes."
    )
    return f"## Cost of a step\n\n{table}\n\n{note}"


def _hardest(
    runs: Mapping[str, Run], results: Results, trials: Trials, sample: Callable[[int, str], Sample]
) -> list[str | Samples]:
    """The identities that the best loss and method decide wrongly, and the samples of the first of them."""
    loss, method = min(results, key=lambda key: results[key].figures["EER %"].value)
    scores, title = runs[loss].scores[method], f"{runs[loss].title}, {METHODS[method]}"
    found = sections.hardest(scores, trials.same, trials.identities, results[loss, method].threshold)
    names = dict(enumerate(trials.names))
    shown = samples(found[:PRESENTED], trials, scores, sample)
    return [sections.hardest_table(found, scores, names, trials.pair, title), Samples(shown) if shown else ""]


def samples(
    hard: Sequence[sections.Hard], trials: Trials, scores: np.ndarray, sample: Callable[[int, str], Sample]
) -> list[Sample]:
    """The samples of the worst trials of each of these identities."""
    shown = []
    for h in hard:
        who = trials.names[h.identity]
        own = trials.i[h.target], trials.j[h.target]
        mine, theirs = trials.i[h.non_target], trials.j[h.non_target]
        if trials.labels[mine] != h.identity:
            mine, theirs = theirs, mine
        captions = {
            own[0]: f": {who}",
            own[1]: f": {who} too, with a score of only {scores[h.target]:.3g}",
        }
        shown += [sample(int(at), trials.samples[at] + text) for at, text in captions.items()]
        shown.append(sample(int(mine), f"{trials.samples[mine]}: {who}"))
        text = f"{trials.samples[theirs]}: not {who}, with a score of {scores[h.non_target]:.3g}"
        shown.append(sample(int(theirs), text))
    return shown


def _print(console: Console, head: list[str], lines: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(*head)
    for line in lines:
        table.add_row(*line)
    console.print(table)
