"""The reports of the scoring commands: tables of error rates with intervals."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import metrics
from ..files.whole import whole
from ..metrics import DetCurve, Interval
from . import plots
from .page import literal, unescaped

if TYPE_CHECKING:
    from rich.console import Console

SMALLEST_SPREAD = 1e-4  # of cosines; float32 has some 1e-7
NUMBER = re.compile(r"-|[-+]?[\d,.]+(e[-+]?\d+)?( [a-zA-Z]+| %)?( \[[^\]]*\])?")
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Value(NamedTuple):
    """A figure of the table and its interval; nan if there are too few trials to measure it."""

    value: float
    interval: Interval | None = None

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.4g}" + (f" [{self.interval.low:.3g}, {self.interval.high:.3g}]" if self.interval else "")


def columns(non_targets: int) -> dict[str, Callable[[DetCurve], tuple[float, float]] | None]:
    """The metric of each column; None for a FAR below one divided by the number of non-target trials."""
    table: dict = {"EER %": DetCurve.eer, "minDCF x 100": DetCurve.min_dcf}
    for far in FARS:
        resolved = far * non_targets >= 1 - 1e-9
        table[f"TAR % at FAR {far:.0e}".replace("e-0", "e-")] = (
            partial(DetCurve.tar_at_far, far=far) if resolved else None
        )
    return table


class Result(NamedTuple):
    """The evaluation of one method."""

    figures: dict[str, Value]  # times 100
    threshold: float  # at which decisions are compared
    curve: DetCurve  # thinned, for plotting


def evaluate(
    scores: np.ndarray,
    same: np.ndarray,
    identities: tuple[np.ndarray, np.ndarray],
    intervals: bool,
    far: float | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Result:
    """The figures, with intervals over the identities, which are given for both sides, unless these are too few.

    The threshold is that of the EER or, if `far` is given, that of this FAR.
    """
    table = columns(int((~same).sum()))
    resolved = {name: metric for name, metric in table.items() if metric}
    curve = metrics.det_curve(scores[same], scores[~same])
    figures = dict.fromkeys(table, Value(np.nan))
    figures |= {name: Value(100 * metric(curve)[0]) for name, metric in resolved.items()}
    threshold = (curve.eer() if far is None else curve.tar_at_far(far))[1]
    curve = plots.thinned(curve)
    if intervals:
        try:
            found = metrics.confidence_intervals(resolved, scores, same, *identities, progress=progress)
        except metrics.TooFewSpeakers:
            found = {}
        for name, (low, high) in found.items():
            figures[name] = figures[name]._replace(interval=Interval(100 * low, 100 * high))
    return Result(figures, threshold, curve)


def note(identities: int, intervals: bool) -> str:
    """The explanation below a table."""
    brackets = f"Brackets: 95 % intervals over the {identities} identities, if these are enough. "
    return f"{brackets if intervals else ''}A dash: there are too few non-target trials for this FAR."


def collapse(scores: np.ndarray) -> str:
    """A warning if float32 cannot tell the cosines apart, as after too short a training; else nothing."""
    spread = float(np.ptp(scores))
    if spread > SMALLEST_SPREAD:
        return ""
    return (
        f"All cosines lie within {spread:.1e}, which float32 hardly tells apart: the encoder has collapsed, or has "
        "hardly been trained (BatchNorm needs more than an epoch). These figures say nothing about the methods."
    )


def upside_down(rows: Mapping[str, Mapping[str, Value]]) -> str:
    """A warning if methods, the first of which is the cosine, have an EER above 50 %; else nothing."""
    found = [f"{title} {row['EER %'].value:.4g} %" for title, row in rows.items() if row["EER %"].value > 50]
    if not found:
        return ""
    cosine, *_ = rows.values()
    cause = (
        "Most likely the labels are swapped: 1 has to stand for two samples of one identity, and 0 for samples of two."
        if cosine["EER %"].value > 50
        else "It is not the labels, as the cosine is the right way round: do not use these methods here."
    )
    return (
        f"The EER is above 50 % ({', '.join(found)}), which is worse than chance: target trials score lower than "
        f"non-target ones. {cause} Close to 50 %, scores may also say nothing at all."
    )


def write_csv(path: Path, head: Sequence, rows: Iterable[Sequence]) -> None:
    with whole(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def write_table(folder: Path, rows: Mapping[str, Mapping[str, Value]], note: str) -> str:
    """Write table.csv, with one line per figure, and return the table in Markdown with the note below it."""
    figures = [
        [row, column, f"{v.value:.6g}", *([f"{bound:.6g}" for bound in v.interval] if v.interval else ["", ""])]
        for row, values in rows.items()
        for column, v in values.items()
        if not np.isnan(v.value)
    ]
    write_csv(folder / "table.csv", ["method", "figure", "value", "low", "high"], figures)
    head = ["method", *next(iter(rows.values()))]
    return f"{markdown(head, [[literal(title), *row.values()] for title, row in rows.items()])}\n\n{note}"


def print_table(console: Console, title: str, rows: Mapping[str, Mapping[str, Value]]) -> None:
    """Print one row per figure and one column per method; many methods are printed without intervals, to fit."""
    from rich.table import Table

    table = Table("", *rows, title=title)
    for column in next(iter(rows.values())):
        values = [row[column] if len(rows) < 5 else row[column]._replace(interval=None) for row in rows.values()]
        table.add_row(column, *(str(value).replace(" [", "\n[") for value in values))
    console.print(table)


def show(
    out: Path, title: str, rows: Mapping[str, Mapping[str, Value]], warnings: Iterable[str], parts: Iterable[str] = ()
) -> None:
    """Print the warnings, the table, these parts of the report without their figures, and where the report is."""
    from rich.console import Console

    console = Console()
    for warning in filter(None, warnings):
        console.print(warning, markup=False)
    print_table(console, title, rows)
    for part in parts:
        text = re.sub(r"\n*^!\[.*\n?", "\n", part, flags=re.MULTILINE)
        console.print(f"\n{unescaped(text).strip()}\n", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Report: {out / 'report.html'}, and report.md for terminals")


def markdown(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """The table in Markdown; columns of numbers are aligned at their right."""
    texts = [[str(cell) for cell in row] for row in rows]
    numeric = [bool(texts) and all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*texts)]
    rule = ["---:" if right else "---" for right in numeric or [False] * len(head)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), rule, *texts])
