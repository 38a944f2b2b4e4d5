"""Parts of the report of `score`, as Markdown with the files that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..metrics import Threshold
from ..scoring.density_spread import density_spread
from ..scoring.identification import rank1
from ..scoring.methods import COSINE
from . import plots, report, sections, thresholds
from .calibrated import calibrated_name, figures_of, write_figures
from .chosen_methods import ChosenMethods
from .page import literal
from .progress import Progress
from .trial_set import TrialSet


@dataclass(frozen=True)
class Outcome:
    """The scores of the trials, and what they give.

    Attributes:
        titles: those of all scores, by their names.
        shown: titles without those of calibrated scores that rank as the scores themselves. The cosine is the first.
        scores: by their names; results: of those that are shown, by their titles.
    """

    trial_set: TrialSet
    chosen: ChosenMethods
    titles: dict[str, str]
    shown: dict[str, str]
    scores: dict[str, np.ndarray]
    results: dict[str, report.Result]

    @property
    def rows(self) -> dict[str, dict[str, report.Value]]:
        """The figures, by the titles."""
        return {title: result.figures for title, result in self.results.items()}

    @property
    def by_title(self) -> dict[str, np.ndarray]:
        return {title: self.scores[name] for name, title in self.shown.items()}


def rivals(outcome: Outcome) -> list[str]:
    """A warning for each of IDA's methods whose densities rival the cosines."""
    chosen, scores = outcome.chosen, outcome.scores
    spreads = {name: density_spread(scores[COSINE.name], scores[name], tau) for name, tau in chosen.tau.items()}
    titles = {method.name: method.title for method in chosen.methods}
    return [f"{titles[name]}: {spread.warning}" for name, spread in spreads.items() if spread.warning]


def thresholds_found(
    folder: Path,
    outcome: Outcome,
    found: Mapping[str, list[Threshold]],
    where: str,
    intervals: bool,
    progress: Progress,
) -> str:
    """What thresholds from elsewhere give on the trials, as Markdown."""
    judged = thresholds.judge(found, outcome.titles, outcome.trial_set, outcome.scores, intervals, progress)
    return thresholds.write(folder, judged, where)


def calibration_figures(folder: Path, outcome: Outcome, where: str) -> str:
    """The figures before and after the calibration of each method that has one, as Markdown."""
    methods, scores, same = outcome.chosen.methods, outcome.scores, outcome.trial_set.trials.same
    both = {m.title: (m.name, calibrated_name(m.name)) for m in methods if calibrated_name(m.name) in outcome.titles}
    before, after = ({title: figures_of(scores[names[n]], same) for title, names in both.items()} for n in (0, 1))
    missing = [m.title for m in methods if m.title not in both]
    note = f"\n\nWithout a calibration in the file: {', '.join(missing)}." if missing else ""
    lead = f"Before and after the calibration, which was fitted on {literal(where)}:"
    return f"{lead}\n\n{write_figures(folder, before, after)}{note}"


def differences(folder: Path, outcome: Outcome, progress: Progress) -> str:
    """The paired differences between the methods, as Markdown."""
    pairs = outcome.trial_set.trials.same, outcome.trial_set.identities
    return sections.differences(folder, sections.changes(outcome.by_title, *pairs, progress))


def curves(folder: Path, outcome: Outcome, trials: str) -> str:
    """The DET curves and the distributions of the scores, as Markdown."""
    plots.det(folder / "det.png", {title: result.curve for title, result in outcome.results.items()}, trials)
    plots.distributions(folder / "distributions.png", outcome.by_title, outcome.trial_set.trials.same)
    return "## Curves\n\n![DET](det.png)\n\n![Scores](distributions.png)"


def decisions(folder: Path, outcome: Outcome, far: float | None) -> str:
    """The pairs that each method decides correctly and the cosine wrongly, or the other way round, as Markdown."""
    titles, scores, results = outcome.shown, outcome.scores, outcome.results
    same = outcome.trial_set.trials.same
    right = {name: (scores[name] > results[title].threshold) == same for name, title in titles.items()}
    (cosine, _), *others = titles.items()
    changed, counts = {}, []
    for name, title in others:
        changed[name, "right"] = right[name] & ~right[cosine]
        changed[name, "wrong"] = right[cosine] & ~right[name]
        kinds = [int((changed[name, put] & side).sum()) for put in ("right", "wrong") for side in (same, ~same)]
        counts.append([title, f"{results[title].threshold:.4g}", *kinds])
    head = ["method", "put", "label", "enrol", "test", "cosine", "score"]
    report.write_csv(folder / "changes.csv", head, _changes(outcome.trial_set, scores, cosine, changed))
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


def hardest(outcome: Outcome) -> str:
    """The hardest identities by the method with the lowest equal error rate, as Markdown. Each is named by one of its
    embeddings.
    """
    trial_set, results = outcome.trial_set, outcome.results
    ids, (enrol, test, same) = trial_set.embeddings.ids, trial_set.trials
    title = sections.best(results)
    scores = outcome.by_title[title]
    found = sections.hardest(scores, same, trial_set.identities, results[title].threshold)
    names = {h.identity: ids[int(np.flatnonzero(trial_set.identity == h.identity)[0])] for h in found}

    def pair(trial: int) -> str:
        return f"{ids[enrol[trial]]}, {ids[test[trial]]}"

    return sections.hardest_table(found, scores, names, pair, title)


def identification(folder: Path, outcome: Outcome, distractors: Tensor, device: str, progress: Progress) -> str:
    """The Rank-1 rates among 10, 100, ... and all distractors, in one random order, as Markdown."""
    sizes = [10**n for n in range(1, 10) if 10**n < len(distractors)] + [len(distractors)]
    order = torch.randperm(len(distractors), generator=torch.Generator().manual_seed(0))
    trial_set = outcome.trial_set
    probes, mixed = trial_set.embeddings.vectors.to(device), distractors[order].to(device)
    rates = {}
    for m in outcome.chosen.methods:
        shown = partial(progress, title=f"Rank-1, {m.title}")
        rates[m.title] = rank1(m, probes, trial_set.identity, mixed, sizes, progress=shown)
    lines = [[title, *values] for title, values in rates.items()]
    report.write_csv(folder / "identification.csv", ["method", *sizes], lines)
    percent = {title: [100 * rate for rate in values] for title, values in rates.items()}
    plots.lines(folder / "identification.png", sizes, "distractors", {"Rank-1, %": percent})
    rows = [[title, *(f"{rate:.2f}" for rate in values)] for title, values in percent.items()]
    table = report.markdown(["method", *(f"{size:,}" for size in sizes)], rows)
    return f"## Identification\n\nRank-1 in %, by number of distractors:\n\n{table}\n\n![Rank-1](identification.png)"
