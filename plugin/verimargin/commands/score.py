"""`verimargin score`: scores, error rates and figures of several methods, from embeddings and a trial list."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ..files.embeddings import save_npz
from ..files.score_lists import write_score_list
from ..files.scorers import read_regressor
from ..files.whole import whole_folder
from ..scoring import methods as scoring
from ..scoring.ida import IDAScorer
from ..scoring.identification import rank1
from ..scoring.methods import Method
from ..scoring.score_norm import ScoreNorm
from . import plots, report
from .memory import block_bytes
from .options import (
    DeviceOption,
    EmbeddingsArgument,
    FolderArgument,
    IntervalsOption,
    KOption,
    MaxMemoryOption,
    TauOption,
    TrialsArgument,
)
from .progress import Progress, progress
from .trial_set import TrialSet, read_trial_set

COHORT_SIZE = 300  # impostors that adaptive s-norm takes by default, as SpeechBrain's recipes do


def score(
    embeddings: EmbeddingsArgument,
    trials: TrialsArgument,
    out: FolderArgument,
    cohort: Annotated[
        Path | None, typer.Option(help="embeddings of impostors: adds s-norm and adaptive s-norm")
    ] = None,
    cohort_size: Annotated[
        int | None,
        typer.Option(
            help="how many of the nearest impostors adaptive s-norm uses", show_default="300, or all if fewer"
        ),
    ] = None,
    anchors: Annotated[Path | None, typer.Option(help="a file of anchors: adds IDA-R")] = None,
    k: KOption = 10,
    tau: TauOption = 1.0,
    regressor: Annotated[Path | None, typer.Option(help="a file that verimargin train-ssr wrote: adds IDA-L")] = None,
    distractors: Annotated[
        Path | None, typer.Option(help="embeddings of other identities: adds Rank-1 among 10, 100, ... of them")
    ] = None,
    at_far: Annotated[
        float | None, typer.Option(min=0, max=1, help="compare decisions at this FAR instead of at the EER")
    ] = None,
    intervals: IntervalsOption = True,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score the TRIALS by the cosine and by each method whose file is given, and write a report to the folder OUT."""
    number = 1 + 2 * bool(cohort) + bool(anchors) + bool(regressor)
    max_bytes = block_bytes(max_memory, trials, embeddings, [cohort, anchors, distractors], number, intervals)
    trial_set = read_trial_set(embeddings, trials)
    methods = [scoring.COSINE]
    if cohort:
        impostors = trial_set.read_others(cohort).vectors.to(device)
        if cohort_size is None:
            cohort_size = min(COHORT_SIZE, len(impostors))
        methods += [scoring.score_norm(ScoreNorm(impostors, size)) for size in (None, cohort_size)]
    if anchors:
        methods.append(scoring.ida(IDAScorer(trial_set.read_others(anchors).vectors.to(device), k, tau)))
    if regressor:
        density = read_regressor(regressor)
        density.check_encoder(trial_set.embeddings.encoder)
        methods.append(scoring.ida(density.scorer.to(device), "ida-l", "IDA-L"))
    others = trial_set.read_others(distractors).vectors if distractors else None
    with whole_folder(out) as folder:
        scores = trial_set.scores(methods, device, progress, max_bytes)
        write_scores(folder, trial_set, scores)
        results = {m.title: trial_set.evaluate(m, scores[m.name], intervals, progress, at_far) for m in methods}
        rows = {title: result.figures for title, result in results.items()}
        warning = report.collapse(scores[scoring.COSINE.name])
        parts = [warning, report.write_table(folder, rows, trial_set.note(intervals))]
        if len(methods) > 1:
            parts.append(decisions(folder, trial_set, methods, scores, results, at_far))
        plots.det(folder / "det.png", {title: result.curve for title, result in results.items()}, trials.name)
        by_title = {m.title: scores[m.name] for m in methods}
        plots.distributions(folder / "distributions.png", by_title, trial_set.trials.same)
        parts.append("![DET](det.png)\n\n![Scores](distributions.png)")
        if others is not None:
            parts.append(identification(folder, methods, trial_set, others, device, progress))
        report.write_markdown(folder, trial_set.title, parts)
    report.show(out, trial_set.title, rows, warning)


def write_scores(folder: Path, trial_set: TrialSet, scores: dict[str, np.ndarray]) -> None:
    """Write all scores to one .npz and, unless the ids are numbers, a text file per method with the lines
    `<enrol> <test> <label> <score>`.
    """
    ids, trials = trial_set.embeddings.ids, trial_set.trials
    save_npz(folder / "scores.npz", ids=np.array(ids), **trials._asdict(), **scores)
    if all(name.isdecimal() for name in ids):
        return
    for name, values in scores.items():
        write_score_list(folder / f"scores_{name}.txt", ids, trials, values)


def decisions(
    folder: Path,
    trial_set: TrialSet,
    methods: list[Method],
    scores: dict[str, np.ndarray],
    results: dict[str, report.Result],
    far: float | None,
) -> str:
    """The pairs that each method decides correctly and the cosine wrongly, or the other way round, as Markdown.

    The cosine is the first of the methods.
    """
    same = trial_set.trials.same
    right = {m.name: (scores[m.name] > results[m.title].threshold) == same for m in methods}
    cosine, changed, counts = methods[0].name, {}, []
    for m in methods[1:]:
        changed[m.name, "right"] = right[m.name] & ~right[cosine]
        changed[m.name, "wrong"] = right[cosine] & ~right[m.name]
        kinds = [int((changed[m.name, put] & side).sum()) for put in ("right", "wrong") for side in (same, ~same)]
        counts.append([m.title, f"{results[m.title].threshold:.4g}", *kinds])
    head = ["method", "put", "label", "enrol", "test", "cosine", "score"]
    report.write_csv(folder / "changes.csv", head, _changes(trial_set, scores, cosine, changed))
    where = "the EER" if far is None else f"FAR {far:g}"
    head = [f"{kind} put {how}" for how in ("right", "wrong") for kind in ("targets", "non-targets")]
    table = report.markdown(["method", "threshold", *head], counts)
    return f"Compared with the cosine, each method at its own threshold of {where} (pairs in changes.csv):\n\n{table}"


def _changes(
    trial_set: TrialSet, scores: dict[str, np.ndarray], cosine: str, changed: dict[tuple[str, str], np.ndarray]
) -> Iterator[list]:
    """The rows of changes.csv, one at a time, as long lists have very many."""
    ids, (enrol, test, same) = trial_set.embeddings.ids, trial_set.trials
    for (name, put), which in changed.items():
        for p in np.flatnonzero(which):
            values = [f"{scores[of][p]:.6f}" for of in (cosine, name)]
            yield [name, put, int(same[p]), ids[enrol[p]], ids[test[p]], *values]


def identification(
    folder: Path, methods: list[Method], trial_set: TrialSet, distractors: Tensor, device: str, progress: Progress
) -> str:
    """The Rank-1 rates among 10, 100, ... and all distractors, in one random order, as Markdown."""
    sizes = [10**n for n in range(1, 10) if 10**n < len(distractors)] + [len(distractors)]
    order = torch.randperm(len(distractors), generator=torch.Generator().manual_seed(0))
    probes, mixed = trial_set.embeddings.vectors.to(device), distractors[order].to(device)
    rates = {}
    for m in methods:
        shown = partial(progress, title=f"Rank-1, {m.title}")
        rates[m.title] = rank1(m, probes, trial_set.identity, mixed, sizes, progress=shown)
    lines = [[title, *values] for title, values in rates.items()]
    report.write_csv(folder / "identification.csv", ["method", *sizes], lines)
    percent = {title: [100 * rate for rate in values] for title, values in rates.items()}
    plots.lines(folder / "identification.png", sizes, "distractors", {"Rank-1, %": percent})
    rows = [[title, *(f"{rate:.2f}" for rate in values)] for title, values in percent.items()]
    table = report.markdown(["method", *(f"{size:,}" for size in sizes)], rows)
    return f"Rank-1 in %, by number of distractors:\n\n{table}\n\n![Rank-1](identification.png)"
