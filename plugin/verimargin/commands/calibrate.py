"""`verimargin calibrate`: calibrations and thresholds of several methods, from embeddings and a development list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .._checks import check_share
from ..files.calibrations import CalibratedMethod, Calibrations, FarThreshold, describe_list, write_calibrations
from ..scoring.calibration import fit_calibration
from . import report, thresholds
from .calibrated import figures_of, write_figures
from .chosen_methods import check_settings, choose_methods
from .known_list import marks
from .memory import block_bytes
from .options import (
    AnchorsOption,
    CohortOption,
    CohortSizeOption,
    DeviceOption,
    EmbeddingsArgument,
    GivenKOption,
    GivenTauOption,
    IntervalsOption,
    MaxMemoryOption,
    RegressorOption,
    TrialsArgument,
)
from .output import new_output
from .progress import progress
from .qualities import Quality, measure
from .trial_set import read_trial_set


@new_output(".json")
def calibrate(
    embeddings: EmbeddingsArgument,
    trials: TrialsArgument,
    out: Annotated[Path, typer.Argument(help="a new .json")],
    quality: Annotated[
        list[Quality] | None,
        typer.Option(help="a quality measure: the log size, the norm or the mean cohort score; may be repeated"),
    ] = None,
    prior: Annotated[
        float, typer.Option(help="the prior of a target trial that the calibration is to be best for")
    ] = 0.5,
    far: Annotated[
        list[float] | None,
        typer.Option(help="a FAR to keep the threshold of; may be repeated", show_default="1e-1, 1e-2, ..."),
    ] = None,
    cohort: CohortOption = None,
    cohort_size: CohortSizeOption = None,
    anchors: AnchorsOption = None,
    k: GivenKOption = None,
    tau: GivenTauOption = None,
    regressor: RegressorOption = None,
    intervals: IntervalsOption = True,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Calibrate the scores of the TRIALS, of the cosine and of each method whose file is given, and write OUT.

    OUT turns the scores of other trials into log-likelihood ratios: `verimargin score --calibration OUT`.
    """
    check_settings(cohort, cohort_size, anchors, k, tau, regressor)
    check_share("--prior", prior, "(0, 1)")
    number = 4 * (1 + 2 * bool(cohort) + bool(anchors) + bool(regressor)) + 4 * len(quality or ())
    max_bytes = block_bytes(max_memory, trials, embeddings, [cohort, anchors], number, intervals)
    trial_set = read_trial_set(embeddings, trials)
    same = trial_set.trials.same
    chosen = choose_methods(trial_set, cohort, cohort_size, anchors, k, tau, regressor, device)
    qualities = measure([name.value for name in quality or ()], trial_set, chosen.cohort, device)
    fars = list(dict.fromkeys(far or resolved_fars(int((~same).sum()))))
    thresholds.check(trials, trial_set, fars)
    scores = trial_set.scores(chosen.methods, device, progress, max_bytes)
    fitted, before, after = {}, {}, {}
    for method in chosen.methods:
        calibration = fit_calibration(scores[method.name], same, qualities, prior)
        llr = calibration(scores[method.name], qualities).astype(np.float32)
        found = thresholds.find(trial_set, llr, fars, intervals, progress)
        kept = [FarThreshold(t.far, t.value, t.interval and (t.interval.low, t.interval.high)) for t in found]
        fitted[method.name] = CalibratedMethod(method.title, calibration, kept)
        before[method.title], after[method.title] = figures_of(scores[method.name], same), figures_of(llr, same)
    targets, identities = int(same.sum()), len(np.unique(trial_set.identity))
    counts = {"targets": targets, "non_targets": len(same) - targets, "identities": identities}
    listed = describe_list(trials, **counts) | marks(trial_set)
    write_calibrations(out, Calibrations(listed, trial_set.embeddings.encoder, prior, chosen.inputs, fitted))
    for note in chosen.notes:
        print(note)
    print(f"{trial_set.title}\nOn these very trials, which flatters the calibrations:\n")
    print(f"{write_figures(None, before, after)}\n")
    if fars:
        print(f"Thresholds of the calibrated scores:\n\n{threshold_table(list(fitted.values()))}\n")
    else:
        print(f"No thresholds: {len(same) - targets} non-target trials are too few for a FAR of {report.FARS[0]:g}.\n")
    print(f"Wrote {out}")


def threshold_table(methods: Sequence[CalibratedMethod]) -> str:
    """One row per method and one column per FAR, in Markdown."""
    rows = [
        [m.title, *(report.Value(t.threshold, t.interval and report.Interval(*t.interval)) for t in m.thresholds)]
        for m in methods
    ]
    return report.markdown(["method", *(f"FAR {t.far:g}" for t in methods[0].thresholds)], rows)


def resolved_fars(non_targets: int) -> list[float]:
    """The FARs of the reports that allow one false accept or more."""
    return [far for far in report.FARS if far * non_targets >= 1 - 1e-9]
