"""Parts that several reports have: paired differences, the hardest identities, versions and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import metrics
from . import report
from .environment import describe
from .page import literal
from .progress import Progress

HARDEST = 5  # identities
CANNOT_BE_TOLD = "cannot be told"
OF_THE_MACHINE = ("Python", "platform", "GPUs", "CPU threads of torch")


class Change(NamedTuple):
    """What a figure changes, times 100, from one method to another, with its paired interval."""

    method: str
    compared_with: str
    figure: str
    change: float
    low: float
    high: float
    verdict: str  # "better", "worse", or "cannot be told", if the interval holds 0

    def __str__(self) -> str:
        word = f" {self.verdict}" if self.verdict != CANNOT_BE_TOLD else ""
        return f"{self.change:+.3g}{word} [{self.low:.3g}, {self.high:.3g}]"


def changes(
    scores: Mapping[str, np.ndarray], same: np.ndarray, identities: tuple[np.ndarray, np.ndarray], progress: Progress
) -> list[Change]:
    """What each figure changes from the first method to each other one.

    The result is empty if there is one method, or if there are too few identities for intervals.
    """
    (first, base), *others = scores.items()
    columns = {name: metric for name, metric in report.columns(int((~same).sum())).items() if metric}
    found = []
    for title, other in others:
        shown = partial(progress, title=f"Differences, {title}")
        try:
            paired = metrics.differences(columns, other, base, same, *identities, progress=shown)
        except metrics.TooFewSpeakers:
            return []
        for name, difference in paired.items():
            change, low, high = (100 * value for value in (difference.value, *difference.interval()))
            found.append(Change(title, first, name, change, low, high, _verdict(name, low, high)))
    return found


def differences(folder: Path, found: Sequence[Change]) -> str:
    """Write the changes to differences.csv, and return them as Markdown, a table for each method compared with."""
    if not found:
        return ""
    rows = [[*c[:3], *(f"{value:.6g}" for value in c[3:6]), c.verdict] for c in found]
    head = ["method", "compared with", "figure", "change", "low", "high", "verdict"]
    report.write_csv(folder / "differences.csv", head, rows)
    tables = []
    for first in dict.fromkeys(change.compared_with for change in found):
        mine = [change for change in found if change.compared_with == first]
        columns = list(dict.fromkeys(change.figure for change in mine))
        methods = dict.fromkeys(change.method for change in mine)
        lines = [[literal(method), *(str(c) for c in mine if c.method == method)] for method in methods]
        tables.append(f"## Compared with {literal(first)}\n\n{report.markdown(['method', *columns], lines)}")
    return "\n\n".join(
        [
            *tables,
            "What each figure changes by, with paired 95 % intervals over the identities. Without the word better or "
            "worse, the interval holds 0, and the two cannot be told apart.",
        ]
    )


def _verdict(figure: str, low: float, high: float) -> str:
    if low <= 0 <= high:
        return CANNOT_BE_TOLD
    return "better" if (low > 0) == figure.startswith("TAR") else "worse"


class Hard(NamedTuple):
    """An identity that is often decided wrongly, with its worst trials."""

    identity: int
    rejects: float  # share of its target trials that are rejected
    accepts: float  # share of its non-target trials that are accepted
    target: int  # the trial with its lowest target score
    non_target: int  # the trial with its highest non-target score


def hardest(
    scores: np.ndarray,
    same: np.ndarray,
    identities: tuple[np.ndarray, np.ndarray],
    threshold: float,
    number: int = HARDEST,
) -> list[Hard]:
    """The identities with the largest mean of both error rates at the threshold, of those with trials of both kinds.

    Identities are numbers >= 0; a non-target trial counts for both of its sides.
    """
    enrol, test = identities
    size = int(max(enrol.max(), test.max())) + 1
    right, wrong = np.bincount(enrol[same], minlength=size), np.zeros(size)
    wrong += np.bincount(enrol[same & (scores <= threshold)], minlength=size)
    others, accepted = np.zeros(size), np.zeros(size)
    for side in (enrol, test):
        others += np.bincount(side[~same], minlength=size)
        accepted += np.bincount(side[~same & (scores > threshold)], minlength=size)
    both = (right > 0) & (others > 0)
    rejects, accepts = (np.where(both, a / np.maximum(b, 1), -1.0) for a, b in ((wrong, right), (accepted, others)))
    order = np.argsort(-(rejects + accepts), kind="stable")[: min(number, int(both.sum()))]
    found = []
    for who in order:
        mine = np.flatnonzero((enrol == who) | (test == who))
        targets, non_targets = mine[same[mine]], mine[~same[mine]]
        worst = int(targets[scores[targets].argmin()]), int(non_targets[scores[non_targets].argmax()])
        found.append(Hard(int(who), float(rejects[who]), float(accepts[who]), *worst))
    return found


def hardest_table(
    found: Sequence[Hard], scores: np.ndarray, names: Mapping[int, str], pair: Callable[[int], str], method: str
) -> str:
    """The hardest identities as Markdown; `names` are those of the identities, `pair` names the sides of a trial."""
    if not found:
        return ""
    rows = []
    for h in found:
        worst = [f"{literal(pair(trial))}: {scores[trial]:.3g}" for trial in (h.target, h.non_target)]
        rows.append([literal(names[h.identity]), f"{100 * h.rejects:.1f} %", f"{100 * h.accepts:.2f} %", *worst])
    head = ["identity", "own rejected", "others accepted", "lowest own score", "highest score with another"]
    return (
        "## The hardest identities\n\n"
        f"The shares of their trials that {literal(method)} decides wrongly at its own threshold:\n\n"
        f"{report.markdown(head, rows)}"
    )


def best(results: Mapping[str, report.Result]) -> str:
    """The title of the method with the lowest equal error rate."""
    return min(results, key=lambda title: results[title].figures["EER %"].value)


def versions(settings: Mapping[str, Any]) -> str:
    """The settings, then the versions of what is installed and the machine, as Markdown."""
    found = {name: value for name, value in describe().items() if name in OF_THE_MACHINE or value[:1].isdigit()}
    rows = [[name, literal(str(value))] for name, value in {**settings, **found}.items() if value is not None]
    return f"## Settings and versions\n\n{report.markdown(['', ''], rows)}"
