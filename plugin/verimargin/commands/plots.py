"""The figures in the reports of the commands, as .png and .svg; each file appears when it is complete.

The .svg takes its colours from the CSS variables of the page that it stands in, light or dark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..files.whole import whole
from ..metrics import DetCurve

INK, RULE = "#1b1f24", "#c4ccd4"  # of text, and of grids
# One for each series; colour-blind people tell them apart (after Okabe and Ito), and their dashes differ too.
SERIES = ("#0060a8", "#c44e00", "#00785a", "#a3457d", "#7a5a00", "#2a7086", "#5a5f66", "#8a2b2b")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 3)))
# A series that has the colour of an earlier one has other dashes.
LOOKS = [(colour, DASHES[(n + turn) % len(DASHES)]) for turn in range(len(DASHES)) for n, colour in enumerate(SERIES)]
VARIABLES = {INK: "ink", RULE: "rule", **{colour: f"series-{n}" for n, colour in enumerate(SERIES, 1)}}

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
LINE = 56  # characters in a line of a DET plot's width
POINTS = 2000  # points of a curve along each axis, several per pixel


def det(path: Path, curves: Mapping[str, DetCurve], title: str) -> None:
    """Plot DET curves on normal-deviate axes (Martin et al. 1997), down to the smallest rates that occur."""
    curves = {fill(name, LINE): thinned(curve) for name, curve in curves.items()}
    lines = sum(name.count("\n") + 1 for name in curves)
    with figure(path, figsize=(5.2, 5.2 + 0.2 * lines), alt=f"DET curves, {title}") as axes:
        lowest = [_lowest(curve.false_accept for curve in curves.values())]
        lowest.append(_lowest(curve.false_reject for curve in curves.values()))
        for name, curve in curves.items():
            axes.plot(_deviate(curve.false_accept), _deviate(curve.false_reject), drawstyle="steps-post", label=name)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(_deviate(RATES), [f"{100 * rate:g}" for rate in RATES])
        axes.set(xlim=_deviate([lowest[0], 0.5]), ylim=_deviate([lowest[1], 0.5]))
        axes.set(xlabel="false accepts, % (up to 50)", ylabel="false rejects, % (up to 50)", title=fill(title, LINE))
        axes.figure.legend(loc="outside lower center", ncols=1)


def distributions(path: Path, scores: Mapping[str, np.ndarray], same: np.ndarray) -> None:
    """Plot a histogram of the target and of the non-target scores of each method, normalised to area 1."""
    rows, columns = -(-len(scores) // 3), min(len(scores), 3)
    alt = "Histograms of target and non-target scores"
    with figure(path, columns, rows=rows, figsize=(3.6 * columns, 2.9 * rows + 0.3), alt=alt) as axes:
        panels = np.atleast_1d(axes).reshape(-1)
        for panel, (name, score) in zip(panels, scores.items()):
            low, high = float(score.min()), float(score.max())
            bins = np.linspace(low, max(high, low + 1e-9), 101)
            for is_target, label in ((False, "non-target"), (True, "target")):
                panel.hist(score[same == is_target], bins, density=True, histtype="stepfilled", alpha=0.6, label=label)
            panel.set(title=name, xlabel="score", yticks=[])
            panel.grid(False)
            panel.locator_params("x", nbins=5)
        for panel in panels[len(scores) :]:
            panel.remove()
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def reliability(path: Path, hulls: Mapping[str, tuple[DetCurve, DetCurve]]) -> None:
    """Plot, for each method, the share of targets over the posterior that the scores say, before and after calibration.

    Both are for as many targets as non-targets. The shares are those of isotonic regression, one for each step of the
    convex `hull` of the DET curve: well calibrated scores lie on the diagonal.
    """
    alt = "Share of targets over the posterior by the scores, before and after calibration"
    with figure(path, len(hulls), figsize=(3.6 * len(hulls), 4.4), alt=alt) as panels:
        for panel, (name, both) in zip(np.atleast_1d(panels), hulls.items()):
            panel.plot([0, 1], [0, 1], color=SERIES[6], linestyle="-", linewidth=0.8)
            for hull, label in zip(both, ("before", "after")):
                dp, dn = np.diff(hull.false_reject), -np.diff(hull.false_accept)
                share, ends = dp / (dp + dn), 1.0 / (1.0 + np.exp(-np.clip(hull.threshold, -500, 500)))
                panel.plot(ends, np.append(share, share[-1:]), drawstyle="steps-post", label=label)
            panel.set(title=name, xlabel="posterior by the scores", xlim=(0, 1), ylim=(-0.02, 1.02), aspect="equal")
        first = np.atleast_1d(panels)[0]
        first.set_ylabel("share of targets")
        first.figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def lines(path: Path, x: Sequence[float], xlabel: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plot series of values over x, one panel per quantity; the x axis is logarithmic if x spans more than a decade."""
    alt = f"{', '.join(panels)} over {xlabel}"
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    width = 4.2 * len(panels)
    columns = max(1, min(len(names), int(11 * width / (max(map(len, names)) + 8))))  # some 11 characters to an inch
    size = width, 3.5 + 0.25 * -(-len(names) // columns)
    with figure(path, len(panels), figsize=size, alt=alt) as axes:
        for panel, (ylabel, series) in zip(np.atleast_1d(axes), panels.items()):
            for name, values in series.items():
                colour, dashes = LOOKS[names.index(name) % len(LOOKS)]  # in all panels, of which some lack a series
                panel.plot(x, values, marker="o", label=name, color=colour, linestyle=dashes)
            if min(x) > 0 and max(x) > 10 * min(x):
                panel.set_xscale("log")
            panel.set_xticks(x, [f"{value:,g}" for value in x])
            panel.set_xticks([], minor=True)
            is_cut = panel.get_ylim()[0] > 0
            panel.set(xlabel=xlabel, ylabel=f"{ylabel} (axis cut above 0)" if is_cut else ylabel)
        drawn = [pair for panel in np.atleast_1d(axes) for pair in zip(*panel.get_legend_handles_labels())]
        legend = {name: handle for handle, name in reversed(drawn)}
        handles = [legend[name] for name in names]
        panel.figure.legend(handles, names, loc="outside lower center", ncols=columns)


@contextmanager
def figure(path: Path, columns: int = 1, rows: int = 1, alt: str = "", **size: Any) -> Iterator[Any]:
    """Axes to draw on, without a display. Without an error, the figure is saved to `path` and to an .svg beside it.

    The `alt` text describes the .svg to those who do not see it. Tick labels that would overlap are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(_style()):  # type: ignore[arg-type]
        drawn, axes = plt.subplots(rows, columns, layout="constrained", **size)
        try:
            yield axes
            _drop_overlapping_ticks(drawn)
            with whole(path) as partial:
                drawn.savefig(partial, dpi=150)
            with whole(path.with_suffix(".svg")) as partial:
                drawn.savefig(partial, transparent=True, metadata={"Date": None, "Creator": None})
                partial.write_text(_themed(partial.read_text("utf-8"), path.stem, alt or path.stem), "utf-8")
        finally:
            plt.close(drawn)


def _style() -> dict[str, Any]:
    from cycler import cycler

    colours, dashes = zip(*LOOKS)
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    ruled = ("axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    return {
        **dict.fromkeys(inked, INK),
        **dict.fromkeys(ruled, RULE),
        "axes.prop_cycle": cycler(color=colours) + cycler(linestyle=dashes),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlesize": "medium",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.markersize": 4,
        "text.parse_math": False,  # names of files may hold dollars
        "svg.fonttype": "none",  # text, in the fonts of the page
        "svg.hashsalt": "verimargin",
    }


def _drop_overlapping_ticks(drawn: Any) -> None:
    drawn.canvas.draw()
    for axis in [axis for axes in drawn.axes for axis in (axes.xaxis, axes.yaxis)]:
        kept: list[Any] = []
        for label in axis.get_ticklabels():
            box = label.get_window_extent().padded(2)
            if label.get_text() and box.width and any(box.overlaps(other) for other in kept):
                label.set_visible(False)
            else:
                kept.append(box)


def _themed(svg: str, name: str, alt: str) -> str:
    """The <svg> element alone, with the page's colours, ids that no other figure has, and a text for screen readers."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    opening, rest = svg.split(">", 1)
    width = re.search(r'width="([\d.]+)pt"', opening)
    box = re.search(r'viewBox="[^"]+"', opening)
    if not width or not box:
        raise RuntimeError("this matplotlib writes SVG without a width or a viewBox: install another version")
    label = escape(alt, quote=True)
    head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"'
    size = f"width: {width[1]}pt; min-width: {0.7 * float(width[1]):.0f}pt"  # on a telephone it scrolls, to be read
    return f'<svg {head} {box[0]} style="{size}" role="img" aria-label="{label}">{rest}'


def _deviate(rate: ArrayLike) -> np.ndarray:
    return torch.special.ndtri(torch.as_tensor(rate, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)).numpy()


def _lowest(rates: Iterable[np.ndarray]) -> float:
    """The lower end of an axis: half of the smallest rate that is not 0, at most 0.1."""
    return min(0.1, min(float(rate[rate > 0].min(initial=1.0)) for rate in rates) / 2)


def thinned(curve: DetCurve) -> DetCurve:
    """The points of the curve that lie inside the axes of a DET plot, without points too close to be told apart."""
    far, frr, rising = curve.false_accept, curve.false_reject, curve.false_accept[::-1]
    first = int(np.searchsorted(frr, 0.0, side="right"))
    end = min(int(np.searchsorted(frr, 1.0)), len(far) - int(np.searchsorted(rising, 0.0, side="right")))
    inside = np.arange(first, end)
    if end - first > 2 * POINTS:
        at_frr = np.searchsorted(frr, _spaced(frr[first], frr[end - 1]))
        at_far = len(far) - np.searchsorted(rising, _spaced(far[end - 1], far[first]), side="right")
        inside = np.unique(np.concatenate([at_frr, at_far, [first, end - 1]]).clip(first, end - 1))
    return DetCurve(far[inside], frr[inside], curve.threshold[inside])


def _spaced(lowest: float, highest: float) -> np.ndarray:
    """Rates that are equally spaced on an axis of a DET plot."""
    first, last = _deviate([lowest, highest])
    return torch.special.ndtr(torch.linspace(float(first), float(last), POINTS, dtype=torch.float64)).numpy()
