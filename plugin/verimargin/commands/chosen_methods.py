"""The methods of `score` and `calibrate`: the cosine, and those whose files are given."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..files.networks import fingerprint
from ..files.scorers import read_regressor
from ..scoring import methods as scoring
from ..scoring.ida import IDAScorer
from ..scoring.methods import Method
from ..scoring.score_norm import ScoreNorm
from .dev_list import identities_of_trials
from .options import TAU, K
from .trial_set import TrialSet

COHORT_SIZE = 300  # impostors that adaptive s-norm takes by default, as SpeechBrain's recipes do


@dataclass(frozen=True)
class ChosenMethods:
    """The methods, the first of which is the cosine.

    Attributes:
        methods: in the order of the report.
        inputs: a digest of each file that scores or qualities depend on, and the size of the cohort.
        cohort: the adaptive norm, whose mean is a quality measure.
        tau: of each of IDA's methods by its name.
        notes: what the reader has to know about the methods.
    """

    methods: list[Method]
    inputs: dict[str, str] = field(default_factory=dict)
    cohort: ScoreNorm | None = None
    tau: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose_methods(
    trial_set: TrialSet,
    cohort: Path | None,
    cohort_size: int | None,
    anchors: Path | None,
    k: int | None,
    tau: float | None,
    regressor: Path | None,
    device: str,
) -> ChosenMethods:
    """The methods whose files are given, which must fit the embeddings of the trials and hold none of them."""
    methods, adaptive = [scoring.COSINE], None
    notes: list[str] = []
    inputs: dict[str, str] = {}
    taus: dict[str, float] = {}
    if cohort:
        given = trial_set.read_others(cohort)
        notes.append(identities_of_trials(cohort, given, trial_set))
        impostors = given.vectors.to(device)
        if cohort_size is None:
            cohort_size = min(COHORT_SIZE, len(impostors))
        if cohort_size == len(impostors):
            notes.append(
                f"Adaptive s-norm takes {cohort_size} impostors, and {cohort.name} has no more: it is the same as "
                "s-norm. Give a larger cohort, or a smaller --cohort-size."
            )
        adaptive = ScoreNorm(impostors, cohort_size)
        methods += [scoring.score_norm(norm) for norm in (ScoreNorm(impostors), adaptive)]
        inputs |= {"cohort": digest(impostors), "cohort_size": str(cohort_size)}
    if anchors:
        given = trial_set.read_others(anchors)
        notes.append(identities_of_trials(anchors, given, trial_set))
        vectors = given.vectors
        k, tau = K if k is None else k, TAU if tau is None else tau
        methods.append(scoring.ida(IDAScorer(vectors.to(device), k, tau)))
        inputs["anchors"], taus["ida-r"] = digest(vectors), tau
    if regressor:
        density = read_regressor(regressor)
        density.check_encoder(trial_set.embeddings.encoder)
        methods.append(scoring.ida(density.scorer.to(device), "ida-l", "IDA-L"))
        inputs["regressor"], taus["ida-l"] = fingerprint(density.scorer), density.scorer.tau
    return ChosenMethods(methods, inputs, adaptive, taus, [note for note in notes if note])


def check_settings(
    cohort: Path | None,
    cohort_size: int | None,
    anchors: Path | None,
    k: int | None,
    tau: float | str | None,
    regressor: Path | None,
) -> None:
    """Refuse the settings of a method whose file is not given: they would change nothing."""
    if cohort_size is not None and not cohort:
        raise ValueError(
            f"--cohort-size is {cohort_size}, but there is no cohort: give one as --cohort, or leave --cohort-size out"
        )
    own = " (the regressor of IDA-L has the k and tau that it was fitted with)" if regressor else ""
    for name, value in (("--k", k), ("--tau", tau)):
        if value is not None and not anchors:
            raise ValueError(
                f"{name} is {value}, a setting of IDA-R, but there are no anchors{own}: give them as --anchors, or "
                f"leave {name} out"
            )


def digest(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.cpu().numpy().tobytes()).hexdigest()
