"""`verimargin score`: scores, error rates and figures of several methods, from embeddings and a trial list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..files.calibrations import Calibrations, read_calibrations
from ..files.embeddings import save_npz
from ..files.score_lists import write_score_list
from ..files.whole import whole_folder
from ..metrics import Threshold
from ..scoring.methods import COSINE
from . import calibrated, report, score_parts, sections, thresholds
from .calibrated import Fitted, check_fits, fitted_on, scored, those_that_rank, titles_of
from .chosen_methods import ChosenMethods, check_settings, choose_methods
from .dev_list import Development, choose_tau, identities_of_trials, read_dev_list, shared_identities
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
from .score_parts import Outcome
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
    fars = list(dict.fromkeys(far or []))
    check_choices(tau, anchors, dev, dev_embeddings, calibration, fars, at_far)
    check_settings(cohort, cohort_size, anchors, k, tau, regressor)
    number = (1 + 2 * bool(cohort) + bool(anchors) + bool(regressor)) * (4 if calibration else 1)
    files = [cohort, anchors, distractors, dev_embeddings]
    max_bytes = block_bytes(max_memory, trials, embeddings, files, number, intervals)
    fitted = Fitted(calibration, read_calibrations(calibration)) if calibration else None
    trial_set = read_trial_set(embeddings, trials)
    development = None
    if dev:
        dev_set = read_dev_list(dev_embeddings or embeddings, dev, trials, trial_set, [cohort, anchors])
        development = Development(dev, dev_set)
        thresholds.check(dev, dev_set, fars)
    if at_far is not None:
        thresholds.check(trials, trial_set, [at_far])
    others = trial_set.read_others(distractors) if distractors else None
    used_k = K if k is None else k
    with whole_folder(out) as folder:
        choice = None
        if tau == AUTO and development and anchors:
            choice = choose_tau(development.trial_set, anchors, used_k, device, progress, max_bytes)
        used_tau = choice.tau if choice else tau_of(tau)
        chosen = choose_methods(trial_set, cohort, cohort_size, anchors, k, used_tau, regressor, device)
        if fitted:
            check_fits(*fitted, trials, trial_set, chosen)
        known = fitted.calibrations if fitted else None
        all_scores = partial(
            scored, chosen=chosen, calibrations=known, device=device, progress=progress, max_bytes=max_bytes
        )
        found = find_thresholds(development, fitted, fars, all_scores, intervals)
        outcome = evaluated(trial_set, chosen, known, all_scores(trial_set), intervals, at_far)
        write_scores(folder, trial_set, outcome.scores)
        warnings = warnings_about(outcome, trials, development, fitted)
        if distractors and others:
            warnings.append(identities_of_trials(distractors, others, trial_set))
        told = {}  # what the terminal shows too, by its heading
        if choice and development:
            told[""] = choice.text(development.path)
        if found and (source := development or fitted):
            told["## Thresholds"] = score_parts.thresholds_found(
                folder, outcome, found, source.title, intervals, progress
            )
        if known:
            told["## Calibration"] = score_parts.calibration_figures(folder, outcome, fitted_on(known))
        parts = [*warnings, report.write_table(folder, outcome.rows, trial_set.note(intervals))]
        parts += [part for heading_and_text in told.items() for part in heading_and_text]
        if intervals:
            parts.append(score_parts.differences(folder, outcome, progress))
        if len(outcome.shown) > 1:
            parts.append(score_parts.decisions(folder, outcome, at_far))
        parts.append(score_parts.curves(folder, outcome, trials.name))
        if others:
            parts.append(score_parts.identification(folder, outcome, others.vectors, device, progress))
        parts.append(score_parts.hardest(outcome))
        given = {
            "embeddings": embeddings,
            "trials": trials,
            "cohort": cohort,
            "anchors": anchors,
            "regressor": regressor,
        }
        settings = {"k": used_k, "tau": used_tau} if anchors else {}
        chosen_on = {"development list": dev, "calibration": calibration, "FAR of the decisions": at_far}
        parts.append(sections.versions({**given, **chosen_on, **settings, "device": device}))
        Report(trial_set.title, parts).write(folder)
    report.show(out, trial_set.title, outcome.rows, warnings, told.values())


def find_thresholds(
    development: Development | None,
    fitted: Fitted | None,
    fars: list[float],
    all_scores: Callable[[TrialSet], dict[str, np.ndarray]],
    intervals: bool,
) -> dict[str, list[Threshold]]:
    """The thresholds for the FARs, by the names of the scores: on the development list, or those of the calibration."""
    if not fars:
        return {}
    if development:
        trial_set = development.trial_set
        scores = all_scores(trial_set)
        return {name: thresholds.find(trial_set, values, fars, intervals, progress) for name, values in scores.items()}
    return thresholds.stored(*fitted, fars) if fitted else {}


def evaluated(
    trial_set: TrialSet,
    chosen: ChosenMethods,
    known: Calibrations | None,
    scores: dict[str, np.ndarray],
    intervals: bool,
    at_far: float | None,
) -> Outcome:
    """The scores with the figures of those that are shown."""
    titles = titles_of(chosen.methods, known)
    shown = those_that_rank(titles, known)
    results = {
        title: trial_set.evaluate(title, scores[name], intervals, progress, at_far) for name, title in shown.items()
    }
    return Outcome(trial_set, chosen, titles, shown, scores, results)


def warnings_about(outcome: Outcome, trials: Path, development: Development | None, fitted: Fitted | None) -> list[str]:
    """What the reader has to know before the figures; a text is "" where there is nothing."""
    trial_set = outcome.trial_set
    warnings = [report.collapse(outcome.scores[COSINE.name]), report.upside_down(outcome.rows), *outcome.chosen.notes]
    warnings.append(trial_set.compared_with_itself())
    warnings += score_parts.rivals(outcome)
    if development:
        warnings.append(shared_identities(development.trial_set, trial_set, (development.path, trials)))
    if fitted:
        warnings.append(calibrated.shared_identities(*fitted, trials, trial_set))
    return warnings


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
