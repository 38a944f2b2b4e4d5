"""`verimargin score`: scores, error rates and figures of several methods, from embeddings and a trial list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ..files.calibrations import read_calibrations
from ..files.embeddings import save_npz
from ..files.score_lists import write_score_list
from ..files.whole import whole_folder
from ..metrics import Threshold
from ..scoring.density_spread import density_spread
from ..scoring.identification import rank1
from ..scoring.methods import COSINE, Method
from . import plots, report, sections, thresholds
from .calibrated import calibrated_name, check_fits, figures_of, scored, those_that_rank, titles_of, write_figures
from .chosen_methods import ChosenMethods, choose_methods
from .dev_list import choose_tau, read_dev_list, shared_identities
from .memory import block_bytes
from .options import (
    AnchorsOption,
    CohortOption,
    CohortSizeOption,
    DeviceOption,
    EmbeddingsArgument,
    FolderArgument,
    IntervalsOption,
    KOption,
    MaxMemoryOption,
    RegressorOption,
    TrialsArgument,
)
from .page import Report
from .progress import Progress, progress
from .trial_set import TrialSet, read_trial_set

AUTO = "auto"


def score(
    embeddings: EmbeddingsArgument,
    trials: TrialsArgument,
    out: FolderArgument,
    cohort: CohortOption = None,
    cohort_size: CohortSizeOption = None,
    anchors: AnchorsOption = None,
    k: KOption = 10,
    tau: Annotated[str, typer.Option(help="IDA's temperature; auto chooses it on the list of --dev")] = "1",
    regressor: RegressorOption = None,
    distractors: Annotated[
        Path | None, typer.Option(help="embeddings of other identities: adds Rank-1 among 10, 100, ... of them")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="a file that verimargin calibrate wrote: adds calibrated scores")
    ] = None,
    far: Annotated[
        list[float] | None,
        typer.Option(help="a wanted FAR: its threshold is found on --dev, or is in --calibration; may be repeated"),
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="trials of other identities, on which tau and thresholds are chosen")
    ] = None,
    dev_embeddings: Annotated[
        Path | None, typer.Option(help="the embeddings of --dev", show_default="EMBEDDINGS")
    ] = None,
    at_far: Annotated[
        float | None, typer.Option(min=0, max=1, help="compare decisions at this FAR instead of at the EER")
    ] = None,
    intervals: IntervalsOption = True,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score the TRIALS by the cosine and by each method whose file is given, and write a report to the folder OUT."""
    fars, wanted_tau = far or [], tau_of(tau)
    check_choices(wanted_tau, anchors, dev, dev_embeddings, calibration, fars)
    number = (1 + 2 * bool(cohort) + bool(anchors) + bool(regressor)) * (4 if calibration else 1)
    files = [cohort, anchors, distractors, dev_embeddings]
    max_bytes = block_bytes(max_memory, trials, embeddings, files, number, intervals)
    known = read_calibrations(calibration) if calibration else None
    trial_set = read_trial_set(embeddings, trials)
    dev_set = read_dev_list(dev_embeddings or embeddings, dev, trials, trial_set, [cohort, anchors]) if dev else None
    if dev and dev_set:
        thresholds.check(dev, dev_set, fars)
    others = trial_set.read_others(distractors).vectors if distractors else None
    with whole_folder(out) as folder:
        parts = []
        if wanted_tau is None and dev and dev_set and anchors:
            choice = choose_tau(dev_set, anchors, k, device, progress, max_bytes)
            parts, wanted_tau = [choice.text(dev)], choice.tau
        used_tau = 1.0 if wanted_tau is None else wanted_tau
        chosen = choose_methods(trial_set, cohort, cohort_size, anchors, k, used_tau, regressor, device)
        if calibration and known:
            check_fits(calibration, known, trials, trial_set, chosen)
        titles = titles_of(chosen.methods, known)
        found: Mapping[str, list[Threshold]] = {}
        if dev_set and fars:
            on_dev = scored(dev_set, chosen, known, device, progress, max_bytes)
            found = {name: thresholds.find(dev_set, on_dev[name], fars, intervals, progress) for name in titles}
        elif calibration and known and fars:
            found = thresholds.stored(calibration, known, fars)
        scores = scored(trial_set, chosen, known, device, progress, max_bytes)
        write_scores(folder, trial_set, scores)
        shown = those_that_rank(titles, known)
        results = {
            title: trial_set.evaluate(title, scores[name], intervals, progress, at_far) for name, title in shown.items()
        }
        rows = {title: result.figures for title, result in results.items()}
        warnings = [report.collapse(scores[COSINE.name]), *rivals(chosen, scores)]
        if dev and dev_set:
            warnings.append(shared_identities(dev_set, trial_set, (dev, trials)))
        parts = [*warnings, report.write_table(folder, rows, trial_set.note(intervals)), *parts]
        if found:
            judged = thresholds.judge(found, titles, trial_set, scores, intervals, progress)
            parts += ["## Thresholds", thresholds.write(folder, judged, str(dev or calibration))]
        if known:
            parts.append("## Calibration")
            parts.append(calibration_figures(folder, chosen, titles, scores, trial_set.trials.same))
        by_title = {title: scores[name] for name, title in shown.items()}
        if intervals:
            pairs = trial_set.trials.same, trial_set.identities
            parts.append(sections.differences(folder, sections.changes(by_title, *pairs, progress)))
        if len(shown) > 1:
            parts.append(decisions(folder, trial_set, shown, scores, results, at_far))
        plots.det(folder / "det.png", {title: result.curve for title, result in results.items()}, trials.name)
        plots.distributions(folder / "distributions.png", by_title, trial_set.trials.same)
        parts.append("## Curves\n\n![DET](det.png)\n\n![Scores](distributions.png)")
        if others is not None:
            parts.append(identification(folder, chosen.methods, trial_set, others, device, progress))
        parts.append(hardest(trial_set, by_title, results))
        given = {
            "embeddings": embeddings,
            "trials": trials,
            "cohort": cohort,
            "anchors": anchors,
            "regressor": regressor,
        }
        chosen_on = {"development list": dev, "calibration": calibration, "FAR of the decisions": at_far}
        parts.append(sections.versions({**given, **chosen_on, "k": k, "tau": used_tau, "device": device}))
        Report(trial_set.title, parts).write(folder)
    report.show(out, trial_set.title, rows, "\n".join(filter(None, warnings)))


def tau_of(text: str) -> float | None:
    """The number, or None for "auto"."""
    try:
        return None if text == AUTO else float(text)
    except ValueError:
        raise ValueError(f"--tau is {text!r}: give a number, or auto") from None


def check_choices(
    tau: float | None,
    anchors: Path | None,
    dev: Path | None,
    dev_embeddings: Path | None,
    calibration: Path | None,
    fars: list[float],
) -> None:
    """Refuse options that need another one which is not given, or that nothing would be done with."""
    if tau is None and not (anchors and dev):
        raise ValueError("--tau auto chooses the tau of IDA-R on a list of its own: give --anchors and --dev")
    if fars and not (dev or calibration):
        raise ValueError(
            "--far asks for a threshold, which must not be found on the trials that it is judged on: give other trials "
            "as --dev, or a --calibration that has thresholds"
        )
    if dev and not fars and tau is not None:
        raise ValueError("--dev is for thresholds or tau, and nothing is chosen on it: give --far, or --tau auto")
    if dev_embeddings and not dev:
        raise ValueError("--dev-embeddings belong to a list: give it as --dev")


def rivals(chosen: ChosenMethods, scores: Mapping[str, np.ndarray]) -> list[str]:
    """A warning for each of IDA's methods whose densities rival the cosines."""
    spreads = {name: density_spread(scores[COSINE.name], scores[name], tau) for name, tau in chosen.tau.items()}
    titles = {method.name: method.title for method in chosen.methods}
    return [f"{titles[name]}: {spread.warning}" for name, spread in spreads.items() if spread.warning]


def calibration_figures(
    folder: Path, chosen: ChosenMethods, titles: Mapping[str, str], scores: Mapping[str, np.ndarray], same: np.ndarray
) -> str:
    """The figures before and after the calibration of each method that has one, as Markdown."""
    both = {m.title: (m.name, calibrated_name(m.name)) for m in chosen.methods if calibrated_name(m.name) in titles}
    before, after = ({title: figures_of(scores[names[n]], same) for title, names in both.items()} for n in (0, 1))
    missing = [m.title for m in chosen.methods if m.title not in both]
    note = f"\n\nWithout a calibration in the file: {', '.join(missing)}." if missing else ""
    return write_figures(folder, before, after) + note


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
    titles: Mapping[str, str],
    scores: dict[str, np.ndarray],
    results: dict[str, report.Result],
    far: float | None,
) -> str:
    """The pairs that each method decides correctly and the cosine wrongly, or the other way round, as Markdown.

    The cosine is the first of the titles.
    """
    same = trial_set.trials.same
    right = {name: (scores[name] > results[title].threshold) == same for name, title in titles.items()}
    (cosine, _), *others = titles.items()
    changed, counts = {}, []
    for name, title in others:
        changed[name, "right"] = right[name] & ~right[cosine]
        changed[name, "wrong"] = right[cosine] & ~right[name]
        kinds = [int((changed[name, put] & side).sum()) for put in ("right", "wrong") for side in (same, ~same)]
        counts.append([title, f"{results[title].threshold:.4g}", *kinds])
    head = ["method", "put", "label", "enrol", "test", "cosine", "score"]
    report.write_csv(folder / "changes.csv", head, _changes(trial_set, scores, cosine, changed))
    where = "the EER" if far is None else f"FAR {far:g}"
    head = [f"{kind} put {how}" for how in ("right", "wrong") for kind in ("targets", "non-targets")]
    table = report.markdown(["method", "threshold", *head], counts)
    what = f"Compared with the cosine, each method at its own threshold of {where} (pairs in changes.csv):"
    return f"## Decisions\n\n{what}\n\n{table}"


def _changes(
    trial_set: TrialSet, scores: dict[str, np.ndarray], cosine: str, changed: dict[tuple[str, str], np.ndarray]
) -> Iterator[list]:
    """The rows of changes.csv, one at a time, as long lists have very many."""
    ids, (enrol, test, same) = trial_set.embeddings.ids, trial_set.trials
    for (name, put), which in changed.items():
        for p in np.flatnonzero(which):
            values = [f"{scores[of][p]:.6f}" for of in (cosine, name)]
            yield [name, put, int(same[p]), ids[enrol[p]], ids[test[p]], *values]


def hardest(trial_set: TrialSet, scores: dict[str, np.ndarray], results: dict[str, report.Result]) -> str:
    """The hardest identities by the method with the lowest equal error rate, as Markdown. Each is named by one of its
    embeddings.
    """
    ids, (enrol, test, same) = trial_set.embeddings.ids, trial_set.trials
    title = sections.best(results)
    found = sections.hardest(scores[title], same, trial_set.identities, results[title].threshold)
    names = {h.identity: ids[int(np.flatnonzero(trial_set.identity == h.identity)[0])] for h in found}

    def pair(trial: int) -> str:
        return f"{ids[enrol[trial]]}, {ids[test[trial]]}"

    return sections.hardest_table(found, scores[title], names, pair, title)


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
    return f"## Identification\n\nRank-1 in %, by number of distractors:\n\n{table}\n\n![Rank-1](identification.png)"
