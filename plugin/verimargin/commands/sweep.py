"""`verimargin sweep`: a table and a figure of IDA-R with several values of one of its settings."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..files.whole import whole_folder
from ..scoring import methods as scoring
from ..scoring.ida import IDAScorer
from . import plots, report
from .memory import block_bytes
from .options import (
    TAU,
    DeviceOption,
    EmbeddingsArgument,
    FolderArgument,
    GivenKOption,
    GivenTauOption,
    IntervalsOption,
    K,
    MaxMemoryOption,
    TrialsArgument,
)
from .page import Report
from .progress import progress
from .trial_set import read_trial_set


class Setting(str, Enum):
    k = "k"
    anchors = "anchors"
    tau = "tau"


def sweep(
    embeddings: EmbeddingsArgument,
    trials: TrialsArgument,
    setting: Annotated[Setting, typer.Argument(help="what to vary: k, tau or the number of anchors")],
    values: Annotated[list[float], typer.Argument(help="the values of the setting, such as 1 2 5 10 20")],
    out: FolderArgument,
    anchors: Annotated[Path, typer.Option(help="a file of anchors")],
    k: GivenKOption = None,
    tau: GivenTauOption = None,
    intervals: IntervalsOption = True,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score the TRIALS by the cosine and by IDA-R with each of the VALUES of a SETTING, and write a report to OUT.

    The anchors are put in a random order once, and a number of anchors takes the first of them.
    """
    if _is_number(out.name):
        raise ValueError(f"OUT is {out}, which looks like one more value: give a folder after the values")
    for varied, value in ((Setting.k, k), (Setting.tau, tau)):
        if setting == varied and value is not None:
            raise ValueError(f"--{setting.value} is {value:g}, but {setting.value} is what varies: leave that out")
    values, k, tau = sorted(set(values)), K if k is None else k, TAU if tau is None else tau
    max_bytes = block_bytes(max_memory, trials, embeddings, [anchors], 1 + len(values), intervals)
    trial_set = read_trial_set(embeddings, trials)
    ordered = trial_set.read_others(anchors).vectors
    mixed = ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(0))].to(device)
    if setting != Setting.tau and not all(value.is_integer() for value in values):
        raise ValueError(f"the values of {setting.value} are {', '.join(f'{v:g}' for v in values)}: give integers")

    def method(value: float) -> scoring.Method:
        size = int(value) if setting == Setting.anchors else len(mixed)
        if not 1 <= size <= len(mixed):
            raise ValueError(f"{size} anchors were asked for, but {anchors} has {len(mixed)}: give 1..{len(mixed)}")
        scorer = IDAScorer(
            mixed[:size], int(value) if setting == Setting.k else k, value if setting == Setting.tau else tau
        )
        name = f"{setting.value} {value:g}"
        return scoring.ida(scorer)._replace(name=name, title=name)

    methods = [scoring.COSINE, *map(method, values)]  # refuses a wrong value before anything is scored
    with whole_folder(out) as folder:
        scores = trial_set.scores(methods, device, progress, max_bytes)
        rows = {m.title: trial_set.evaluate(m.title, scores[m.name], intervals, progress).figures for m in methods}
        warnings = [report.collapse(scores[scoring.COSINE.name]), report.upside_down(rows)]
        parts = [
            *warnings,
            report.write_table(folder, rows, trial_set.note(intervals)),
            "![Error rates](sweep.png)",
        ]
        plot(folder / "sweep.png", setting.value, values, rows)
        Report(trial_set.title, parts).write(folder)
    report.show(out, trial_set.title, rows, warnings)


def plot(path: Path, setting: str, values: list[float], rows: dict[str, dict[str, report.Value]]) -> None:
    """Plot one panel per figure of the table, without those that have a dash."""
    cosine, *others = rows.values()
    panels = {
        column: {
            f"IDA-R, by {setting}": [row[column].value for row in others],
            "cosine": [cosine[column].value] * len(values),
        }
        for column in cosine
        if str(cosine[column]) != "-"
    }
    plots.lines(path, values, setting, panels)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
