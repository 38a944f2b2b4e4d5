"""Thresholds in the reports: found on one list, judged on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import metrics
from ..files.calibrations import Calibrations
from ..metrics import Interval, Judged, Threshold
from . import report
from .calibrated import calibrated_name
from .page import literal
from .progress import Progress
from .trial_set import TrialSet


class Row(NamedTuple):
    """A threshold of one method, with what it gives on the trials that are judged."""

    method: str
    threshold: Threshold
    judged: Judged


def find(
    trial_set: TrialSet, scores: np.ndarray, fars: Sequence[float], intervals: bool, progress: Progress
) -> list[Threshold]:
    """The thresholds for the FARs on a list, with intervals over its identities."""
    shown = partial(progress, title="Intervals of thresholds")
    same, identities = trial_set.trials.same, trial_set.identities
    return metrics.thresholds_at_far(scores, same, *identities, fars, intervals=intervals, progress=shown)


def check(path: Path, trial_set: TrialSet, fars: Sequence[float]) -> None:
    """Refuse FARs that a list has too few non-target trials for, before anything is scored."""
    try:
        metrics.check_fars(fars, int((~trial_set.trials.same).sum()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def stored(path: Path, calibrations: Calibrations, fars: Sequence[float]) -> dict[str, list[Threshold]]:
    """The thresholds of calibrated scores in a file, by the names of the scores."""
    found: dict[str, list[Threshold]] = {}
    for name, method in calibrations.methods.items():
        known = {t.far: Threshold(t.far, t.threshold, t.interval and Interval(*t.interval)) for t in method.thresholds}
        if missing := [far for far in fars if far not in known]:
            raise ValueError(
                f"{path} has no threshold for the FAR {missing[0]:g}, only for {', '.join(f'{f:g}' for f in known)}: "
                f"give one of these, fit it anew with --far {missing[0]:g}, or find thresholds on a list with --dev"
            )
        found[calibrated_name(name)] = [known[far] for far in fars]
    return found


def judge(
    found: Mapping[str, Sequence[Threshold]],
    titles: Mapping[str, str],
    trial_set: TrialSet,
    scores: Mapping[str, np.ndarray],
    intervals: bool,
    progress: Progress,
) -> list[Row]:
    """What thresholds from elsewhere give on a list, with intervals over its identities."""
    rows: list[Row] = []
    for name in (name for name in found if name in titles):
        values = [threshold.value for threshold in found[name]]
        same, identities = trial_set.trials.same, trial_set.identities
        shown = partial(progress, title=f"Thresholds, {titles[name]}")
        judged = metrics.judge(values, scores[name], same, *identities, intervals=intervals, progress=shown)
        rows += [Row(titles[name], threshold, rates) for threshold, rates in zip(found[name], judged)]
    return rows


def write(folder: Path, rows: Sequence[Row], where: str) -> str:
    """Write thresholds.csv, and return the table in Markdown."""
    head = ["method", "wanted FAR", "threshold", "low", "high", "FAR", "low", "high", "FRR", "low", "high"]
    report.write_csv(folder / "thresholds.csv", head, [_plain(row) for row in rows])
    shown = [
        [
            row.method,
            f"{row.threshold.far:g}",
            _text(row.threshold.value, row.threshold.interval),
            _text(100 * row.judged.false_accept, _percent(row.judged.false_accept_interval)),
            _text(100 * row.judged.false_reject, _percent(row.judged.false_reject_interval)),
        ]
        for row in rows
    ]
    table = report.markdown(["method", "wanted FAR", "threshold", "FAR % here", "FRR % here"], shown)
    lead = f"Thresholds found on {literal(where)}, and what they give on these trials (a trial is accepted above):"
    return f"{lead}\n\n{table}"


def _plain(row: Row) -> list:
    threshold, judged = row.threshold, row.judged
    ends = [list(i) if i else ["", ""] for i in (threshold.interval, *judged[2:])]
    return [
        *(row.method, threshold.far, threshold.value, *ends[0]),
        *(judged.false_accept, *ends[1], judged.false_reject, *ends[2]),
    ]


def _percent(interval: Interval | None) -> Interval | None:
    return interval and Interval(100 * interval.low, 100 * interval.high)


def _text(value: float, interval: Interval | None) -> str:
    return str(report.Value(value, interval))
