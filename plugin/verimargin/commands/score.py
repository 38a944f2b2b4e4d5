"""`verimargin score`: embeddings and a trial list in, scores, error rates and figures of each method out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ..files.embeddings import read_embeddings
from ..scoring import methods as scoring
from ..scoring.ida import IDAScorer
from ..scoring.identification import rank1
from ..scoring.methods import Method
from ..scoring.regressor import load_regressor
from ..scoring.score_norm import ScoreNorm
from . import plots, report
from .task import Task, read_task

EmbeddingsArgument = Annotated[Path, typer.Argument(help=".npz, torch.save of a dictionary, or folder of .npy")]
TrialsArgument = Annotated[Path, typer.Argument(help="VoxCeleb's or IJB's list")]
OutArgument = Annotated[Path, typer.Argument(help="a new folder for the results")]
KOption = Annotated[int, typer.Option(help="nearest anchors in a support set")]
TauOption = Annotated[float, typer.Option(help="IDA's temperature")]
ResamplesOption = Annotated[int, typer.Option(min=0, help="resamples of the identities, for the intervals; 0: none")]
DeviceOption = Annotated[str, typer.Option(help="where to compute, such as cuda")]

Progress = Callable[..., Iterable]  # of steps and title


def score(
    embeddings: EmbeddingsArgument,
    trials: TrialsArgument,
    out: OutArgument,
    cohort: Annotated[Path | None, typer.Option(help="impostors' embeddings: s-norm, adaptive s-norm")] = None,
    cohort_size: Annotated[int, typer.Option(help="impostors that adaptive s-norm takes")] = 300,
    anchors: Annotated[Path | None, typer.Option(help="anchors: IDA-R")] = None,
    k: KOption = 10,
    tau: TauOption = 1.0,
    regressor: Annotated[Path | None, typer.Option(help="a file of verimargin train-ssr: IDA-L")] = None,
    distractors: Annotated[Path | None, typer.Option(help="embeddings: Rank-1 among 10, 100, ... of them")] = None,
    at_far: Annotated[float | None, typer.Option(min=0, max=1, help="compare decisions there, not at the EER")] = None,
    resamples: ResamplesOption = 200,
    device: DeviceOption = "cpu",
) -> None:
    """Score the TRIALS of EMBEDDINGS by the cosine and by each method whose file is given; report in the folder OUT."""
    from rich.console import Console

    console = Console()
    task = read_task(embeddings, trials)
    methods = [scoring.COSINE]
    if cohort:
        impostors = task.anchors(cohort).to(device)
        methods += [scoring.score_norm(ScoreNorm(impostors, size)) for size in (None, cohort_size)]
    if anchors:
        methods.append(scoring.ida(IDAScorer(task.anchors(anchors).to(device), k, tau)))
    if regressor:
        methods.append(scoring.ida(load_regressor(regressor, task.encoder).to(device), "ida-l", "IDA-L"))
    others = read_distractors(distractors, task) if distractors else None
    progress = report.progress_on(console)
    with report.new_folder(out) as folder:
        scores = score_task(task, methods, device, progress)
        write_scores(folder, task, scores)
        results = {m.title: evaluated(task, m, scores[m.name], resamples, progress, at_far) for m in methods}
        rows = {title: result.figures for title, result in results.items()}
        parts = [report.write_table(folder, rows, note(task, resamples))]
        if len(methods) > 1:
            parts.append(decisions(folder, task, methods, scores, results, at_far))
        plots.det(folder / "det.png", {title: result.curve for title, result in results.items()}, trials.name)
        plots.distributions(folder / "distributions.png", {m.title: scores[m.name] for m in methods}, task.trials.same)
        parts.append("![DET](det.png)\n\n![Scores](distributions.png)")
        if others is not None:
            parts.append(identification(folder, methods, task, others, device, progress))
        report.write_markdown(folder, task.title, parts)
    report.print_table(console, task.title, rows)
    console.print(f"Report: {out / 'report.md'}")


def read_distractors(path: Path, task: Task) -> Tensor:
    read = read_embeddings(path)
    if both := set(read.ids) & set(task.embeddings.ids):
        raise ValueError(f"{path} and the trials share {len(both)} ids, such as {min(both)}: leave them out of {path}")
    return read.vectors


def score_task(task: Task, methods: list[Method], device: str, progress: Progress) -> dict[str, np.ndarray]:
    i, j = (torch.from_numpy(side).to(device) for side in task.trials[:2])
    scores = scoring.score_trials(methods, task.embeddings.vectors.to(device), i, j, progress)
    return {name: values.cpu().numpy() for name, values in scores.items()}


def evaluated(
    task: Task, method: Method, scores: np.ndarray, resamples: int, progress: Progress, far: float | None = None
) -> report.Result:
    shown = partial(progress, title=f"Intervals, {method.title}")
    return report.evaluate(scores, task.trials, task.identities, resamples, far, shown)


def write_scores(folder: Path, task: Task, scores: dict[str, np.ndarray]) -> None:
    """All in one .npz; for lists of names also a text file each, `<enrol> <test> <label> <score>`."""
    ids, (enrol, test, same) = task.embeddings.ids, task.trials
    arrays: dict = {"ids": np.array(ids), "enrol": enrol, "test": test, "same": same, **scores}
    np.savez(folder / "scores.npz", **arrays)
    if all(name.isdecimal() for name in ids):
        return
    for name, values in scores.items():
        with open(folder / f"scores_{name}.txt", "w", encoding="utf-8") as file:
            for e, t, label, value in zip(enrol.tolist(), test.tolist(), same.tolist(), values.tolist()):
                file.write(f"{ids[e]} {ids[t]} {label:d} {value:f}\n")


def note(task: Task, resamples: int) -> str:
    people = len(np.unique(task.identity))
    intervals = f"Brackets: 95 % intervals, by resampling the {people} identities {resamples} times. "
    return f"{intervals if resamples else ''}A dash: this FAR takes more non-target trials."


def decisions(
    folder: Path, task: Task, methods: list[Method], scores: dict, results: dict[str, report.Result], far: float | None
) -> str:
    """The pairs that each method puts right and wrong against the cosine, which is the first of them."""
    ids, (enrol, test, same) = task.embeddings.ids, task.trials
    right = {m.name: (scores[m.name] > results[m.title].threshold) == same for m in methods}
    cosine, counts, pairs = methods[0].name, [], []
    for m in methods[1:]:
        count = [m.title, f"{results[m.title].threshold:.4g}"]
        for put, changed in (
            ("right", right[m.name] & ~right[cosine]),
            ("wrong", right[cosine] & ~right[m.name]),
        ):
            count += [str((changed & same).sum()), str((changed & ~same).sum())]
            for p in np.flatnonzero(changed):
                values = [f"{scores[name][p]:.6f}" for name in (cosine, m.name)]
                pairs.append([m.name, put, int(same[p]), ids[enrol[p]], ids[test[p]], *values])
        counts.append(count)
    report.write_csv(folder / "changes.csv", ["method", "put", "label", "enrol", "test", "cosine", "score"], pairs)
    where = "the EER" if far is None else f"FAR {far:g}"
    head = [f"{kind} put {how}" for how in ("right", "wrong") for kind in ("targets", "non-targets")]
    table = report.markdown(["method", "threshold", *head], counts)
    return f"Against the cosine, each at its own threshold of {where} (the pairs: changes.csv):\n\n{table}"


def identification(
    folder: Path, methods: list[Method], task: Task, distractors: Tensor, device: str, progress: Progress
) -> str:
    """Rank-1 among 10, 100, ... and all distractors, in an order drawn once."""
    sizes = [10**n for n in range(1, 10) if 10**n < len(distractors)] + [len(distractors)]
    order = torch.randperm(len(distractors), generator=torch.Generator().manual_seed(0))
    probes, mixed = task.embeddings.vectors.to(device), distractors[order].to(device)
    rates = {
        m.title: rank1(m, probes, task.identity, mixed, sizes, progress=partial(progress, title=f"Rank-1, {m.title}"))
        for m in methods
    }
    report.write_csv(folder / "identification.csv", ["method", *sizes], [[title, *of] for title, of in rates.items()])
    percent = {title: [100 * rate for rate in of] for title, of in rates.items()}
    plots.lines(folder / "identification.png", sizes, "distractors", {"Rank-1, %": percent})
    rows = [[title, *(f"{rate:.2f}" for rate in of)] for title, of in percent.items()]
    table = report.markdown(["method", *(f"{size:,}" for size in sizes)], rows)
    return f"Rank-1, %, by the number of distractors:\n\n{table}\n\n![Rank-1](identification.png)"
