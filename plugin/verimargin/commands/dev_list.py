"""A development list: trials on which something is chosen, so that it is not chosen on those that are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import metrics
from ..files.embeddings import Embeddings, check_encoder
from ..scoring import methods as scoring
from ..scoring.ida import IDAScorer
from . import report
from .page import literal
from .progress import Progress
from .trial_set import TrialSet, read_trial_set

TAUS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # below 0.1 the order of pairs hardly changes any more


class Development(NamedTuple):
    """A development list and its file."""

    path: Path
    trial_set: TrialSet

    @property
    def title(self) -> str:
        return str(self.path)


def read_dev_list(
    embeddings: Path, dev: Path, trials: Path, judged: TrialSet, others: Sequence[Path | None] = ()
) -> TrialSet:
    """The trials of `dev`, which must share none with those that are judged.

    Args:
        others: cohort and anchors, which must hold no embeddings of these trials either.

    Raises:
        ValueError: it is the same list, or shares trials with it; its embeddings are of another encoder; or as for
            `read_trial_set` and `TrialSet.read_others`.
    """
    if dev.is_file() and dev.samefile(trials):
        raise ValueError(
            f"--dev is {dev}, the list that is judged: what is chosen on a list looks better there than it is; give "
            "trials of other identities"
        )
    chosen_on = read_trial_set(embeddings, dev)
    one, other = chosen_on.embeddings, judged.embeddings
    check_encoder(embeddings, one.encoder, other.encoder)
    if one.vectors.shape[1] != other.vectors.shape[1]:
        raise ValueError(
            f"the vectors in {embeddings} have {one.vectors.shape[1]} numbers, those of the trials "
            f"{other.vectors.shape[1]}: give embeddings of one encoder"
        )
    for path in filter(None, others):
        chosen_on.read_others(path)
    if shared := _shared_trials(chosen_on, judged):
        raise ValueError(
            f"{dev} and {trials} share trials ({len(shared)}, such as {shared[0]}): what is chosen on trials looks "
            "better there than it is; give trials of other identities"
        )
    return chosen_on


def shared_identities(one: TrialSet, other: TrialSet, names: tuple[Path, Path]) -> str:
    """A warning that names identities of both lists; "" if there are none.

    Identities are folders if they are in one of the lists: a wrong label hides that in the other. Otherwise they are
    those of embeddings in both lists.
    """
    if folders(one) or folders(other):
        shared, kind = sorted(first_folders(one) & first_folders(other)), "identities"
    else:
        shared, kind = _shared_ids(one.embeddings, other.embeddings), "embeddings, and so their identities"
    if not shared:
        return ""
    return (
        f"{names[0]} and {names[1]} share {kind} ({len(shared)}, such as {shared[0]}): what is chosen on the first "
        "looks better on the second than it is"
    )


def identities_of_trials(path: Path, others: Embeddings, trial_set: TrialSet) -> str:
    """A warning that names identities of the trials among a cohort, anchors or distractors; "" if there are none.

    Numbers are no names, as they are not the same everywhere.
    """
    names = {name.split("/")[0] for name in others.labels or others.ids}
    shared = sorted(name for name in names & set(folders(trial_set)) if not name.isdecimal())
    if not shared:
        return ""
    return (
        f"{path} has embeddings of identities of the trials ({len(shared)}, such as {shared[0]}), who are taken for "
        "impostors there: leave them out"
    )


class TauChoice(NamedTuple):
    """The tau with the lowest EER on a development list, and EER and minDCF, times 100, of each that was tried."""

    tau: float
    tried: dict[float, tuple[float, float]]

    def text(self, dev: Path) -> str:
        """A table in Markdown."""
        rows = [[f"{tau:g}", f"{eer:.4g}", f"{cost:.4g}"] for tau, (eer, cost) in self.tried.items()]
        table = report.markdown(["tau", "EER %", "minDCF x 100"], rows)
        lowest = self.tried[self.tau][0]
        tied = [f"{tau:g}" for tau, (eer, _) in self.tried.items() if eer == lowest and tau != self.tau]
        equal = f", as have {', '.join(tied)}, of which it is the nearest to 1" if tied else ""
        return f"tau {self.tau:g} has the lowest EER on {literal(dev.name)}{equal}.{self._edge}\n\n{table}"

    @property
    def _edge(self) -> str:
        if self.tau not in (min(self.tried), max(self.tried)):
            return ""
        which, more = ("smallest", "smaller") if self.tau == min(self.tried) else ("largest", "larger")
        return (
            f" It is the {which} that was tried: a {more} one may be better, which `verimargin sweep` with this list "
            "shows."
        )


def choose_tau(dev_set: TrialSet, anchors: Path, k: int, device: str, progress: Progress, max_bytes: int) -> TauChoice:
    """The tau of IDA-R with the lowest EER on the list, and the nearest to 1 of those that are equal."""
    vectors = dev_set.read_others(anchors).vectors.to(device)
    methods = [scoring.ida(IDAScorer(vectors, k, tau))._replace(name=str(tau)) for tau in TAUS]
    scores, same = dev_set.scores(methods, device, progress, max_bytes), dev_set.trials.same
    tried = {}
    for tau in TAUS:
        curve = metrics.det_curve(scores[str(tau)][same], scores[str(tau)][~same])
        tried[tau] = 100 * curve.eer()[0], 100 * curve.min_dcf()[0]
    return TauChoice(min(TAUS, key=lambda tau: (tried[tau][0], abs(math.log(tau)))), tried)


def first_folders(trial_set: TrialSet) -> set[str]:
    """The first folders of the ids, whether or not they are the identities."""
    return {name.split("/")[0] for name in trial_set.embeddings.ids}


def folders(trial_set: TrialSet) -> list[str]:
    """The first folders of the ids if they are the identities; else nothing."""
    names, number = np.unique([name.split("/")[0] for name in trial_set.embeddings.ids], return_inverse=True)
    flat = not any("/" in name for name in trial_set.embeddings.ids)
    return [] if flat or not (number == trial_set.identity).all() else names.tolist()


def _shared_ids(one: Embeddings, other: Embeddings) -> list[str]:
    """The ids of both; numbers count only where the embeddings are the same too."""
    place = {name: n for n, name in enumerate(other.ids)}
    return [
        name
        for n, name in enumerate(one.ids)
        if name in place and (not name.isdecimal() or bool((one.vectors[n] == other.vectors[place[name]]).all()))
    ]


def _shared_trials(one: TrialSet, other: TrialSet) -> list[str]:
    """The trials of the first that are among those of the second, in any order of the sides."""
    known = {name: n for n, name in enumerate(_shared_ids(one.embeddings, other.embeddings))}

    def codes(trial_set: TrialSet) -> np.ndarray:
        place = np.array([known.get(name, -1) for name in trial_set.embeddings.ids])
        enrol, test = place[trial_set.trials.enrol], place[trial_set.trials.test]
        both = (enrol >= 0) & (test >= 0)
        return np.minimum(enrol, test)[both].astype(np.int64) * len(known) + np.maximum(enrol, test)[both]

    names = list(known)
    return [
        " ".join(names[side] for side in divmod(code, len(names))) for code in np.intersect1d(codes(one), codes(other))
    ]
