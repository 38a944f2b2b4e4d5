"""The figures in the reports of the commands; each file appears when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..files.whole import whole
from ..metrics import DetCurve

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
POINTS = 2000  # points of a curve along each axis, several per pixel


def det(path: Path, curves: Mapping[str, DetCurve], title: str) -> None:
    """Plot DET curves on normal-deviate axes (Martin et al. 1997), down to the smallest rates that occur."""
    with figure(path, figsize=(5.5, 5.5)) as axes:
        curves = {name: thinned(curve) for name, curve in curves.items()}
        lowest = [_lowest(curve.false_accept for curve in curves.values())]
        lowest.append(_lowest(curve.false_reject for curve in curves.values()))
        for name, curve in curves.items():
            axes.plot(_deviate(curve.false_accept), _deviate(curve.false_reject), drawstyle="steps-post", label=name)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(_deviate(RATES), [f"{100 * rate:g}" for rate in RATES])
        axes.set(xlim=_deviate([lowest[0], 0.5]), ylim=_deviate([lowest[1], 0.5]))
        axes.set(xlabel="false accepts, %", ylabel="false rejects, %", title=title)
        axes.tick_params("x", rotation=45)
        axes.grid(alpha=0.3)
        axes.legend()


def distributions(path: Path, scores: Mapping[str, np.ndarray], same: np.ndarray) -> None:
    """Plot a histogram of the target and of the non-target scores of each method, normalised to area 1."""
    with figure(path, len(scores), figsize=(4 * len(scores), 3.2)) as panels:
        for panel, (name, score) in zip(np.atleast_1d(panels), scores.items()):
            bins = np.linspace(score.min(), score.max(), 101)
            for is_target, label in ((False, "non-target"), (True, "target")):
                panel.hist(score[same == is_target], bins, density=True, histtype="stepfilled", alpha=0.5, label=label)
            panel.set(title=name, xlabel="score", yticks=[])
            panel.legend()


def reliability(path: Path, hulls: Mapping[str, tuple[DetCurve, DetCurve]]) -> None:
    """Plot, for each method, the share of targets over the posterior that the scores say, before and after calibration.

    Both are for as many targets as non-targets. The shares are those of isotonic regression, one for each step of the
    convex `hull` of the DET curve: well calibrated scores lie on the diagonal.
    """
    with figure(path, len(hulls), figsize=(3.6 * len(hulls), 4.1)) as panels:
        for panel, (name, both) in zip(np.atleast_1d(panels), hulls.items()):
            panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
            for hull, label in zip(both, ("before", "after")):
                dp, dn = np.diff(hull.false_reject), -np.diff(hull.false_accept)
                share, ends = dp / (dp + dn), 1.0 / (1.0 + np.exp(-np.clip(hull.threshold, -500, 500)))
                panel.plot(ends, np.append(share, share[-1:]), drawstyle="steps-post", label=label)
            panel.set(title=name, xlabel="posterior by the scores", xlim=(0, 1), ylim=(-0.02, 1.02), aspect="equal")
            panel.grid(alpha=0.3)
            panel.legend()
        np.atleast_1d(panels)[0].set_ylabel("share of targets")


def lines(path: Path, x: Sequence[float], xlabel: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plot series of values over x, one panel per quantity; the x axis is logarithmic if x spans more than a decade."""
    with figure(path, len(panels), figsize=(4.5 * len(panels), 3.6)) as axes:
        for panel, (ylabel, series) in zip(np.atleast_1d(axes), panels.items()):
            for name, values in series.items():
                panel.plot(x, values, marker="o", label=name)
            if min(x) > 0 and max(x) > 10 * min(x):
                panel.set_xscale("log")
            panel.set_xticks(x, [f"{value:,g}" for value in x], rotation=45)
            panel.set_xticks([], minor=True)
            panel.set(xlabel=xlabel, ylabel=ylabel)
            panel.grid(alpha=0.3)
            panel.legend()


@contextmanager
def figure(path: Path, columns: int = 1, **size: Any) -> Iterator[Any]:
    """Axes to draw on, without a display; the figure is saved to `path` unless an error occurs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn, axes = plt.subplots(1, columns, layout="constrained", **size)
    try:
        yield axes
        with whole(path) as partial:
            drawn.savefig(partial, dpi=150)
    finally:
        plt.close(drawn)


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
