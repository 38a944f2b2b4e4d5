"""Quality measures of trials, from the embeddings of both sides."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

import torch
from torch import Tensor

from ..scoring.calibration import Qualities
from ..scoring.methods import ROWS
from ..scoring.score_norm import ScoreNorm
from .trial_set import TrialSet

SMALLEST_SPREAD = 1e-5  # of norms, as a share of their mean; float32 rounds unit norms by some 1e-7


class Quality(str, Enum):
    size = "size"  # the logarithm of the duration, or of the number of images of a template
    norm = "norm"  # of the embedding
    cohort = "cohort"  # the mean of the cosines with the nearest impostors


def measure(names: Collection[str], trial_set: TrialSet, cohort: ScoreNorm | None, device: str) -> Qualities:
    """The values of each quality on both sides of each trial.

    Raises:
        ValueError: a quality is unknown, there are no sizes, the norms are all the same, or there is no cohort.
    """
    enrol, test = trial_set.trials.enrol, trial_set.trials.test
    known = [quality.value for quality in Quality]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"the quality {unknown[0]!r} is none of {', '.join(known)}: update verimargin, or leave it out"
        )
    found = {name: _values(Quality(name), trial_set, cohort, device).cpu().numpy() for name in names}
    return {name: (values[enrol], values[test]) for name, values in found.items()}


def _values(quality: Quality, trial_set: TrialSet, cohort: ScoreNorm | None, device: str) -> Tensor:
    """One value per embedding."""
    vectors, sizes = trial_set.embeddings.vectors, trial_set.embeddings.sizes
    if quality == Quality.size:
        if sizes is None:
            raise ValueError(
                "the quality `size` is the duration, or the number of images, which the file of embeddings does not "
                "hold: add an array `sizes` to the .npz, one number for each id (verimargin embed-speech does)"
            )
        return torch.from_numpy(sizes).log()
    if quality == Quality.norm:
        norms = vectors.double().norm(dim=1)
        if norms.std() < SMALLEST_SPREAD * norms.mean():
            raise ValueError(
                f"all embeddings have the norm {float(norms[0]):.4g}: leave the quality `norm` out, or keep the norms "
                "when you save the embeddings"
            )
        return norms
    if cohort is None:
        raise ValueError("the quality `cohort` is a mean over impostors: give them as --cohort")
    return torch.cat([cohort.statistics(rows.to(device))[0] for rows in vectors.split(ROWS)])
