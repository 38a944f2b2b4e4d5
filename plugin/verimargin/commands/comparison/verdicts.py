"""The figures of the finished runs of an experiment, and which losses they tell apart."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ... import metrics
from ...files.reading import read_arrays
from ...files.trials import Trials, identities
from ...metrics import Difference
from ...scoring.methods import COSINE
from .. import report
from ..progress import Progress
from ..sections import CANNOT_BE_TOLD
from .run import Run

NOT_SCORES = ("ids", "enrol", "test", "same")
LEVEL = 0.05  # of wrong verdicts between equally good losses, for each figure


@dataclass(frozen=True)
class Scores:
    """The scores of all finished runs by one method, on the same trials.

    Attributes:
        same, enrol, test: for each trial, its label and both identities.
        by_loss: for each loss, the scores (trainings, trials).
        seeds: for each loss, the seeds of its rows.
    """

    same: np.ndarray
    enrol: np.ndarray
    test: np.ndarray
    by_loss: Mapping[str, np.ndarray]
    seeds: Mapping[str, list[int]]


@dataclass(frozen=True)
class Verdict:
    """The comparison of one loss with another by one figure, in the units of the report."""

    loss: str
    other: str
    figure: str
    difference: float
    low: float
    high: float
    p_value: float  # Holm's, over the pairs of losses
    verdict: str


def methods_of(runs: Sequence[Run]) -> list[str]:
    """The scoring methods of all of the finished runs, the cosine first."""
    held = [set(read_arrays(run.scores, ())[1]) - set(NOT_SCORES) for run in runs]
    return sorted(set.intersection(*held), key=lambda name: (name != COSINE.name, name))


def read_scores(runs: Sequence[Run], method: str) -> Scores:
    """The scores of finished runs.

    Raises:
        ValueError: two runs were scored on other trials, or one lacks the scores.
    """
    rows: dict[str, list[np.ndarray]] = {}
    seeds: dict[str, list[int]] = {}
    first: dict[str, np.ndarray] = {}
    for run in runs:
        found, _ = read_arrays(run.scores, (*NOT_SCORES, method))
        if missing := [name for name in (*NOT_SCORES, method) if name not in found]:
            raise ValueError(f"{run.scores} has no {missing[0]}: remove {run.scores.parent}, and it is scored again")
        first = first or found
        if any(not np.array_equal(first[name], found[name]) for name in NOT_SCORES):
            raise ValueError(f"{run.title} was scored on other trials than {runs[0].title}: remove one of the two")
        rows.setdefault(run.loss.title, []).append(found[method])
        seeds.setdefault(run.loss.title, []).append(run.seed)
    trials = Trials(first["enrol"], first["test"], first["same"].astype(bool))
    identity = identities(trials, [str(name) for name in first["ids"]])
    by_loss = {loss: np.array(scores) for loss, scores in rows.items()}
    return Scores(trials.same, identity[trials.enrol], identity[trials.test], by_loss, seeds)


def figures(scores: Scores, progress: Progress, intervals: bool = True) -> dict[str, dict[str, report.Value]]:
    """The mean figures of each loss, times 100, with intervals over identities and trainings."""
    table = report.columns(int((~scores.same).sum()))
    resolved = {name: metric for name, metric in table.items() if metric}
    found = {}
    for loss, rows in progress(scores.by_loss.items(), title="Figures", unit="loss"):
        curves = [metrics.det_curve(row[scores.same], row[~scores.same]) for row in rows]
        values = {name: 100 * sum(metric(c)[0] for c in curves) / len(curves) for name, metric in resolved.items()}
        known: dict[str, metrics.Interval] = {}
        if intervals:
            with contextlib.suppress(metrics.TooFewSpeakers):
                known = metrics.confidence_intervals(resolved, rows, scores.same, scores.enrol, scores.test)
        shown = {name: metrics.Interval(100 * low, 100 * high) for name, (low, high) in known.items()}
        found[loss] = {name: report.Value(values.get(name, np.nan), shown.get(name)) for name in table}
    return found


def verdicts(scores: Scores, progress: Progress) -> list[Verdict]:
    """Each loss against those before it, in each figure that the trials are enough for; [] for too few identities."""
    table = report.columns(int((~scores.same).sum()))
    resolved = {name: metric for name, metric in table.items() if metric}
    rows, found = scores.by_loss, {}
    for other, loss in progress(list(combinations(rows, 2)), title="Differences", unit="pair"):
        judged = rows[loss], rows[other], scores.same, scores.enrol, scores.test
        try:
            found[loss, other] = metrics.differences(resolved, *judged)
        except metrics.TooFewSpeakers:
            return []
    listed = []
    for name in resolved:
        adjusted = holm([differences[name].p_value for differences in found.values()])
        listed += [
            _verdict(*pair, name, differences[name], p) for (pair, differences), p in zip(found.items(), adjusted)
        ]
    return sorted(listed, key=lambda v: list(found).index((v.loss, v.other)))


def _verdict(loss: str, other: str, figure: str, difference: Difference, p_value: float) -> Verdict:
    low, high = difference.interval(1.0 - LEVEL)
    higher_is_better = figure.startswith("TAR")
    better = (difference.value > 0) == higher_is_better
    word = CANNOT_BE_TOLD if p_value > LEVEL else "better" if better else "worse"
    return Verdict(loss, other, figure, 100 * difference.value, 100 * low, 100 * high, p_value, word)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): at most a share p of all families of tests has one that is wrongly below p.

    >>> holm([0.03, 0.01, 0.5])
    [0.06, 0.03, 0.5]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min((len(p_values) - rank) * p_values[n], 1.0))
        adjusted[n] = largest
    return adjusted
