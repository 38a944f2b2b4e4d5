"""`verimargin score`: scores, error rates and figures of several methods, from embeddings and a trial list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..files.calibrations import read_calibrations
from ..files.embeddings import save_npz
from ..files.score_lists import write_score_list
from ..files.whole import whole_folder
from ..metrics import Threshold
from ..scoring.methods import COSINE
from . import calibrated, plots, report, score_parts, sections, thresholds
from .calibrated import check_fits, fitted_on, scored, those_that_rank, titles_of
from .chosen_methods import check_settings, choose_methods
from .dev_list import choose_tau, read_dev_list, shared_identities
from .memory import block_bytes
from .options import (
    TAU,
    AnchorsOption,
    CohortOption,
    CohortSizeOption,
    DeviceOption,
    EmbeddingsArgument,
    FolderArgument,
    GivenKOption,
    IntervalsOption,
    K,
    MaxMemoryOption,
    RegressorOption,
    TrialsArgument,
)
from .page import Report
from .progress import progress
from .score_choices import AUTO, check_choices, tau_of
from .trial_set import TrialSet, read_trial_set


def score(
    embeddings: EmbeddingsArgument,
    trials: TrialsArgument,
    out: FolderArgument,
    cohort: CohortOption = None,
    cohort_size: CohortSizeOption = None,
    anchors: AnchorsOption = None,
    k: GivenKOption = None,
    tau: Annotated[
        str | None,
        typer.Option(help="IDA-R's temperature; auto chooses it on the list of --dev", show_default=f"{TAU:g}"),
    ] = None,
    regressor: RegressorOption = None,
    distractors: Annotated[
        Path | None, typer.Option(help="embeddings of other identities: adds Rank-1 among 10, 100, ... of them")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="a file that verimargin calibrate wrote: adds calibrated scores")
    ] = None,
    far: Annotated[
        list[float] | None,
        typer.Option(
            help="a wanted FAR, whose threshold is found on --dev or, without it, is in --calibration; repeatable"
        ),
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="trials of other identities, on which tau and thresholds are chosen")
    ] = None,
    dev_embeddings: Annotated[
        Path | None, typer.Option(help="the embeddings of --dev", show_default="EMBEDDINGS")
    ] = None,
    at_far: Annotated[float | None, typer.Option(help="compare decisions at this FAR instead of at the EER")] = None,
    intervals: IntervalsOption = True,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Score the TRIALS by the cosine and by each method whose file is given, and write a report to the folder OUT."""
    fars = far or []
    check_choices(tau, anchors, dev, dev_embeddings, calibration, fars, at_far)
    check_settings(cohort, cohort_size, anchors, k, tau, regressor)
    number = (1 + 2 * bool(cohort) + bool(anchors) + bool(regressor)) * (4 if calibration else 1)
    files = [cohort, anchors, distractors, dev_embeddings]
    max_bytes = block_bytes(max_memory, trials, embeddings, files, number, intervals)
    known = read_calibrations(calibration) if calibration else None
    trial_set = read_trial_set(embeddings, trials)
    dev_set = read_dev_list(dev_embeddings or embeddings, dev, trials, trial_set, [cohort, anchors]) if dev else None
    if dev and dev_set:
        thresholds.check(dev, dev_set, fars)
    if at_far is not None:
        thresholds.check(trials, trial_set, [at_far])
    others = trial_set.read_others(distractors).vectors if distractors else None
    with whole_folder(out) as folder:
        told = []  # what the terminal shows too
        if tau == AUTO and dev and dev_set and anchors:
            choice = choose_tau(dev_set, anchors, K if k is None else k, device, progress, max_bytes)
            told, used_tau = [choice.text(dev)], choice.tau
        else:
            used_tau = tau_of(tau)
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
        warnings = [report.collapse(scores[COSINE.name]), report.upside_down(rows), chosen.note]
        warnings += score_parts.rivals(chosen, scores)
        if dev and dev_set:
            warnings.append(shared_identities(dev_set, trial_set, (dev, trials)))
        if calibration and known:
            warnings.append(calibrated.shared_identities(calibration, known, trials, trial_set))
        parts = [*warnings, report.write_table(folder, rows, trial_set.note(intervals)), *told]
        if found:
            judged = thresholds.judge(found, titles, trial_set, scores, intervals, progress)
            where = str(dev) if dev or not known else f"{fitted_on(known)}, the list of {calibration}"
            told.append(thresholds.write(folder, judged, where))
            parts += ["## Thresholds", told[-1]]
        if known:
            same = trial_set.trials.same
            told.append(score_parts.calibration_figures(folder, chosen, titles, scores, same, fitted_on(known)))
            parts += ["## Calibration", told[-1]]
        by_title = {title: scores[name] for name, title in shown.items()}
        if intervals:
            pairs = trial_set.trials.same, trial_set.identities
            parts.append(sections.differences(folder, sections.changes(by_title, *pairs, progress)))
        if len(shown) > 1:
            parts.append(score_parts.decisions(folder, trial_set, shown, scores, results, at_far))
        plots.det(folder / "det.png", {title: result.curve for title, result in results.items()}, trials.name)
        plots.distributions(folder / "distributions.png", by_title, trial_set.trials.same)
        parts.append("## Curves\n\n![DET](det.png)\n\n![Scores](distributions.png)")
        if others is not None:
            parts.append(score_parts.identification(folder, chosen.methods, trial_set, others, device, progress))
        parts.append(score_parts.hardest(trial_set, by_title, results))
        given = {
            "embeddings": embeddings,
            "trials": trials,
            "cohort": cohort,
            "anchors": anchors,
            "regressor": regressor,
        }
        settings = {"k": K if k is None else k, "tau": used_tau} if anchors else {}
        chosen_on = {"development list": dev, "calibration": calibration, "FAR of the decisions": at_far}
        parts.append(sections.versions({**given, **chosen_on, **settings, "device": device}))
        Report(trial_set.title, parts).write(folder)
    report.show(out, trial_set.title, rows, warnings, told)


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
