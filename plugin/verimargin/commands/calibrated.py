"""Calibrated scores: whether a calibration fits what is scored, and how good scores are before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import metrics
from ..files.calibrations import CalibratedMethod, Calibrations, digest
from ..files.embeddings import check_encoder
from ..metrics import DetCurve
from ..metrics.likelihood_ratios import cllr_of_hull
from ..scoring.methods import Method
from . import known_list, plots, report
from .chosen_methods import ChosenMethods
from .progress import Progress
from .qualities import measure
from .trial_set import TrialSet

COLUMNS = ("minDCF x 100", "actual DCF x 100", "minCllr", "Cllr")
NOTE = (
    "Before, the scores are taken for natural log-likelihood ratios, which they are not. minDCF and minCllr are what "
    "the best threshold and the best increasing function would give on these very trials; the actual figures need "
    "neither. p_target is 0.01, and the DCF is not normalised."
)


class Fitted(NamedTuple):
    """What `verimargin calibrate` found, and its file."""

    path: Path
    calibrations: Calibrations

    @property
    def title(self) -> str:
        """The list on which it was found."""
        return f"{fitted_on(self.calibrations)}, the list of {self.path}"


class Figures(NamedTuple):
    """How good scores are as log-likelihood ratios; the costs are times 100."""

    min_dcf: float
    actual_dcf: float
    min_cllr: float
    cllr: float
    hull: DetCurve


def figures_of(scores: np.ndarray, same: np.ndarray) -> Figures:
    curve = metrics.det_curve(scores[same], scores[~same])
    hull = curve.hull()
    costs = 100 * curve.min_dcf()[0], 100 * curve.actual_dcf()[0]
    return Figures(*costs, cllr_of_hull(hull), metrics.cllr(scores[same], scores[~same]), hull)


def write_figures(folder: Path | None, before: Mapping[str, Figures], after: Mapping[str, Figures]) -> str:
    """The table in Markdown; with a folder, also calibration.csv and reliability.png there."""
    rows = [
        [title, when, *figures[:4]]
        for title in after
        for when, figures in (("before", before[title]), ("after", after[title]))
    ]
    table = report.markdown(
        ["method", "calibration", *COLUMNS], [[*row[:2], *(f"{v:.4g}" for v in row[2:])] for row in rows]
    )
    if folder is None:
        return table
    report.write_csv(folder / "calibration.csv", ["method", "calibration", *COLUMNS], rows)
    plots.reliability(folder / "reliability.png", {t: (before[t].hull, after[t].hull) for t in after})
    return f"{table}\n\n{NOTE}\n\n![Reliability](reliability.png)"


def check_fits(
    path: Path, calibrations: Calibrations, trials: Path, trial_set: TrialSet, chosen: ChosenMethods
) -> None:
    """Refuse calibrations of the same list, of another encoder, of other methods, or with other files or settings."""
    if calibrations.trials.get("sha256") == digest(trials) or known_list.is_same(calibrations.trials, trial_set):
        raise ValueError(
            f"{path} was fitted on {trials} itself, where it looks better than it is: give trials of other identities"
        )
    if not _known(chosen.methods, calibrations):
        raise ValueError(f"{path} calibrates none of the methods that were asked for: fit it anew, with the same files")
    check_encoder(path, calibrations.encoder, trial_set.embeddings.encoder)
    for name, value in chosen.inputs.items():
        if calibrations.inputs.get(name, value) != value:
            raise ValueError(
                f"{path} was fitted with another {name.replace('_', ' ')} than the one given: give the same as then"
            )
    for method in chosen.methods:
        known = calibrations.methods.get(method.name)
        if known and known.title != method.title:
            raise ValueError(
                f"{path} calibrates {known.title}, but {method.title} was asked for: give the same settings as then"
            )


def shared_identities(path: Path, calibrations: Calibrations, trials: Path, trial_set: TrialSet) -> str:
    """A warning that names identities that the calibrations were fitted on; "" if there are none."""
    found = known_list.shared(calibrations.trials, trial_set)
    if not found:
        return ""
    return (
        f"{path} was fitted on {fitted_on(calibrations)}, which shares identities or embeddings with "
        f"{trials} ({len(found)}, such as {found[0]}): the calibration looks better on these trials than it is"
    )


def fitted_on(calibrations: Calibrations) -> str:
    """The name of the list."""
    return str(calibrations.trials.get("name", "another list"))


def scored(
    trial_set: TrialSet,
    chosen: ChosenMethods,
    calibrations: Calibrations | None,
    device: str,
    progress: Progress,
    max_bytes: int,
) -> dict[str, np.ndarray]:
    """The scores by method name, and those of the calibrated ones by `calibrated_name`, in float32."""
    known = _known(chosen.methods, calibrations)
    names = {name for method in known.values() for name in method.calibration.qualities}
    qualities = measure(names, trial_set, chosen.cohort, device)  # first, because it may refuse
    scores = trial_set.scores(chosen.methods, device, progress, max_bytes)
    for name, method in known.items():
        scores[calibrated_name(name)] = method.calibration(scores[name], qualities).astype(np.float32)
    return scores


def calibrated_name(name: str) -> str:
    return f"{name}-calibrated"


def titles_of(methods: Sequence[Method], calibrations: Calibrations | None) -> dict[str, str]:
    """The titles of all scores by their names."""
    known = _known(methods, calibrations)
    after = {calibrated_name(name): f"{method.title}, calibrated" for name, method in known.items()}
    return {method.name: method.title for method in methods} | after


def those_that_rank(titles: Mapping[str, str], calibrations: Calibrations | None) -> dict[str, str]:
    """The titles without calibrations that have no quality measures: these leave the order of trials as it is."""
    methods = calibrations.methods if calibrations else {}
    same_order = {calibrated_name(name) for name, method in methods.items() if not method.calibration.qualities}
    return {name: title for name, title in titles.items() if name not in same_order}


def _known(methods: Sequence[Method], calibrations: Calibrations | None) -> dict[str, CalibratedMethod]:
    if calibrations is None:
        return {}
    return {method.name: calibrations.methods[method.name] for method in methods if method.name in calibrations.methods}
