"""The pictures in the report of `verimargin compare`: DET curves, and a forest plot of the differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np

from ... import metrics
from ...metrics import DetCurve
from .. import plots
from .verdicts import CANNOT_BE_TOLD, Scores, Verdict

WORDS = "better", "worse", CANNOT_BE_TOLD
LOOKS = {  # of a difference, by its verdict
    "better": {"color": plots.SERIES[2], "marker": "o"},
    "worse": {"color": plots.SERIES[1], "marker": "s"},
    CANNOT_BE_TOLD: {"color": plots.SERIES[6], "marker": "o", "markerfacecolor": "none"},
}
COLUMNS, NAME = 3, 30  # panels side by side; characters in a line of a loss's name


def write_curves(out: Path, scores: Scores, title: str) -> str:
    """Plot a DET curve of each loss to det.png, and return it as Markdown."""
    curves = {}
    for loss, rows in scores.by_loss.items():
        curves[loss] = mean_curve([metrics.det_curve(row[scores.same], row[~scores.same]) for row in rows])
    plots.det(out / "det.png", curves, title)
    text = "![DET curves of the losses](det.png)"
    if all(len(rows) == 1 for rows in scores.by_loss.values()):
        return text
    return (
        f"{text}\n\nEach curve is the mean over the seeds: at each rate of false accepts, the mean of the runs' rates "
        "of false rejects, each run at a threshold of its own, as for the TAR above. The scores of several runs are "
        "not pooled, as no threshold is common to them."
    )


def mean_curve(curves: Sequence[DetCurve]) -> DetCurve:
    """The mean false reject rate of several curves at each false accept rate; its thresholds are nan.

    At a rate f, a curve has the false reject rate 1 - ``tar_at_far(f)``, so the mean TAR at FAR of the curves is that
    of their mean. The rates f are those at which the `thinned` curves have a step.
    """
    if len(curves) == 1:
        return curves[0]
    rates = np.unique(np.concatenate([[0.0, 1.0], *(plots.thinned(curve).false_accept for curve in curves)]))[::-1]
    firsts = [len(c.false_accept) - np.searchsorted(c.false_accept[::-1], rates, side="right") for c in curves]
    rejects = np.mean([curve.false_reject[first] for curve, first in zip(curves, firsts)], axis=0)
    return DetCurve(rates, rejects, np.full(len(rates), np.nan))


def write_forest(out: Path, verdicts: Sequence[Verdict]) -> str:
    """Plot the differences of each loss from the first to differences.png, and return it as Markdown."""
    first = verdicts[0].other
    forest(out / "differences.png", [v for v in verdicts if v.other == first])
    return "![Differences of each loss from the first, with their intervals](differences.png)"


def forest(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Plot the differences of losses from another one, with intervals: a panel for each figure, a row for each loss."""
    losses = list(dict.fromkeys(v.loss for v in verdicts))
    names = list(dict.fromkeys(v.figure for v in verdicts))
    columns, rows = min(len(names), COLUMNS), -(-len(names) // COLUMNS)
    labels = [fill(loss, NAME) for loss in losses]
    heights = np.array([label.count("\n") + 1.8 for label in labels])  # in lines of text
    places = dict(zip(losses, heights.cumsum() - heights / 2))
    size = 2.4 + 2.6 * columns, rows * (0.17 * heights.sum() + 1.0) + 0.9
    alt = f"Differences from {verdicts[0].other}, with 95 % intervals"
    with plots.figure(path, columns, rows=rows, figsize=size, sharey=True, alt=alt) as axes:
        panels = np.atleast_1d(axes).reshape(-1)
        for panel, name in zip(panels, names):
            panel.axvline(0, color=plots.INK, linestyle="-", linewidth=0.8)
            for v in [v for v in verdicts if v.figure == name]:
                spread = [[v.difference - v.low], [v.high - v.difference]]
                look = LOOKS[v.verdict]
                panel.errorbar(v.difference, places[v.loss], xerr=spread, linestyle="none", **look)
            side = "above" if name.startswith("TAR") else "below"
            panel.set(title=name, xlabel=f"better {side} 0", yticks=list(places.values()), yticklabels=labels)
            panel.set_ylim(heights.sum(), 0)
            panel.locator_params("x", nbins=5)
        for panel in panels[len(names) :]:
            panel.remove()
        told = [word for word in WORDS if any(v.verdict == word for v in verdicts)]
        handles = [panels[0].plot([], [], linestyle="none", label=word, **LOOKS[word])[0] for word in told]
        drawn = panels[0].figure
        drawn.suptitle(fill(f"difference from {verdicts[0].other}", 34 * columns), fontsize="medium")
        drawn.legend(handles, told, loc="outside lower center", ncols=len(told))
