"""The tables and the picture of `low_far.py`, with intervals over test identities and training seeds together.

Two variances are added: the jackknife's over the families of test identities, of the mean over the S seeds, and
s^2 / S, where the variance s^2 between seeds is pooled over the losses. The degrees of freedom are Satterthwaite's. A
difference between two losses has the jackknife's variance of the difference, since both meet the same identities, and
2 s^2 / S. All runs have one population of training classes, whose choice is in no interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from low_far_evaluation import CURVE
from low_far_losses import FAMILIES
from measurement import markdown
from verimargin.metrics.speakers import jackknife_variance
from verimargin.metrics.student import quantile

FIGURES = ("EER", "TAR at 1e-04", "TAR at 1e-05", "TAR at 1e-06")
OURS = "Q-Margin"
LEVEL = 0.95
Result = dict[str, Any]


class Size(NamedTuple):
    """What runs that are compared have in common."""

    classes: int
    epochs: int
    batch: int

    def __str__(self) -> str:
        return f"{self.classes:,} classes, {self.epochs} epochs in batches of {self.batch:,}"


def size_of(result: Result) -> Size:
    return Size(*(result["job"][name] for name in Size._fields))


class Estimate(NamedTuple):
    """A figure of each seed, (S,), and without each group of identities, (S, divisions, groups)."""

    values: np.ndarray
    without: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def minus(self, other: Estimate) -> Estimate:
        return Estimate(self.values - other.values, self.without - other.without)

    def half_width(self, seed_variance: float, freedom: float) -> float:
        """Half of the interval, with the variance between seeds and its degrees of freedom."""
        parts = [jackknife_variance(self.without.mean(0)), (seed_variance / len(self.values), freedom)]
        variance = sum(v for v, _ in parts)
        if variance == 0:
            return 0.0
        return quantile(LEVEL, variance**2 / sum(v**2 / f for v, f in parts)) * variance**0.5


def write_tables(results: Sequence[Result], out: Path) -> None:
    """Print the tables of each number of classes and length of training, and draw the curves into `out`.

    Raises:
        ValueError: there are no results of Q-Margin.
    """
    if OURS not in [r["job"]["family"] for r in results]:
        raise ValueError(f"{out / 'final'} has no results of {OURS}: run `final` first")
    sizes: dict[Size, list[Result]] = defaultdict(list)
    for result in results:
        sizes[size_of(result)].append(result)
    for size, of_size in sorted(sizes.items()):
        if OURS not in [r["job"]["family"] for r in of_size]:
            print(f"\nNo results of {OURS} with {size} yet")
            continue
        runs = by_family(of_size)
        pairs = of_size[0]["test"]["cosine"]["impostor pairs"]
        print(f"\n## {size}, {pairs:,} impostor pairs, seeds {[r['job']['seed'] for r in runs[OURS]]}\n")
        if len(runs[OURS]) == 1:
            print("With one seed, the intervals are over the identities alone.\n")
        print(markdown(("loss", "setting", "s of CPU", "active", *FIGURES), [row(f, r, runs) for f, r in runs.items()]))
        print(f"\n{OURS} minus\n")
        print(markdown(("loss", *FIGURES), [differences(f, runs) for f in runs if f != OURS]))
        print("\nIDA-R minus the cosine\n")
        scores = [score for score in of_size[0]["test"] if score != "cosine"]
        print(markdown(("loss", "anchors", *FIGURES), [gains(f, score, runs) for f in runs for score in scores]))
        draw(runs, out / f"low_far_{size.classes}classes_{size.epochs}epochs.svg")


def by_family(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each loss in the order of their seeds; a loss without the seeds of Q-Margin is left out."""
    runs = {
        f: sorted((r for r in results if r["job"]["family"] == f), key=lambda r: r["job"]["seed"]) for f in FAMILIES
    }
    seeds = {family: [r["job"]["seed"] for r in found] for family, found in runs.items()}
    unfinished = {family: s for family, s in seeds.items() if s != seeds[OURS]}
    if unfinished:
        print(f"\nLeft out, because {OURS} has the seeds {seeds[OURS]}: {unfinished}. Run `final` to its end.")
    return {family: found for family, found in runs.items() if family not in unfinished}


def estimate(found: Sequence[Result], figure: str, score: str = "cosine") -> Estimate:
    parts = [r["test"][score][figure] for r in found]
    return Estimate(np.array([p["value"] for p in parts]), np.array([p["without"] for p in parts]))


def seed_variance(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """The variance between the seeds, pooled over the losses, and its degrees of freedom; 0 with one seed."""
    freedom = sum(len(e.values) - 1 for e in estimates)
    squares = sum(float(((e.values - e.mean) ** 2).sum()) for e in estimates)
    return (squares / freedom, float(freedom)) if freedom else (0.0, 1.0)


def row(family: str, found: list[Result], runs: dict[str, list[Result]]) -> list[str]:
    setting = ", ".join(f"{name} {value:g}" for name, value in found[0]["job"]["setting"].items())
    seconds, active = (np.mean([r[name] for r in found]) for name in ("training seconds", "active classes"))
    cells = []
    for figure in FIGURES:
        e = estimate(found, figure)
        half = e.half_width(*seed_variance([estimate(r, figure) for r in runs.values()]))
        cells.append(f"{100 * e.mean:.2f} [{100 * (e.mean - half):.2f}, {100 * (e.mean + half):.2f}]")
    return [family, setting, f"{seconds:.0f}", "all" if np.isnan(active) else f"{active:.0f}", *cells]


def differences(family: str, runs: dict[str, list[Result]]) -> list[str]:
    """Q-Margin's figures minus those of another loss; bold where the interval does not hold 0."""
    cells = []
    for figure in FIGURES:
        variance, freedom = seed_variance([estimate(r, figure) for r in runs.values()])
        cells.append(told(estimate(runs[OURS], figure).minus(estimate(runs[family], figure)), 2 * variance, freedom))
    return [family, *cells]


def gains(family: str, score: str, runs: dict[str, list[Result]]) -> list[str]:
    """What IDA gains over the cosine of the same networks."""
    cells = []
    for figure in FIGURES:
        gain = {f: estimate(r, figure, score).minus(estimate(r, figure)) for f, r in runs.items()}
        cells.append(told(gain[family], *seed_variance(list(gain.values()))))
    return [family, score.removeprefix("IDA-R, "), *cells]


def told(difference: Estimate, variance: float, freedom: float) -> str:
    half = difference.half_width(variance, freedom)
    text = f"{100 * difference.mean:+.2f} ± {100 * half:.2f}"
    return f"**{text}**" if abs(difference.mean) > half else text


def draw(runs: dict[str, list[Result]], path: Path) -> None:
    """TAR by FAR, the mean over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "verimargin", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(9.0, 4.8), layout="constrained")
    for n, (family, found) in enumerate(runs.items()):
        curve = 100 * np.mean([r["test"]["cosine"]["curve"] for r in found], axis=0)
        axes.semilogx(
            CURVE, curve, color=f"C{n}", lw=2.5 if family == OURS else 1.3, ls="-" if n < 6 else "--", label=family
        )
    axes.set(xlabel="false accept rate", ylabel="true accept rate, %", xlim=(CURVE[0], CURVE[-1]))
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(f"\nwrote {path}")
