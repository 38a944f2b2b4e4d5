"""Score normalisation against a cohort of impostors, at a cost per embedding instead of per trial."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_pairs, unit_rows
from .neighbours import nearest_cosines
from .pairs import cosine_pairs

KINDS = ("s-norm", "z-norm", "t-norm")
SMALLEST_SPREAD = 1e-4  # of an embedding's cohort cosines; a cohort of copies has less


class ScoreNorm:
    """z-, t- and s-norm of cosine scores, and their adaptive forms.

    With mean and std (unbiased) of an embedding's cosines with the cohort, for a trial of e and t::

        z = (cosine(e, t) - mean_e) / std_e
        t = (cosine(e, t) - mean_t) / std_t
        s = (z + t) / 2

    Adaptive with a `cohort_size`: mean and std of the embedding's `cohort_size` largest cosines only. Equals
    what SpeechBrain's `speaker_verification_cosine.py` gives with the same `score_norm` and `cohort_size`,
    where each trial compares both its embeddings with the whole cohort. A std below 1e-4 counts as 1e-4.

    Args:
        cohort: (M, d) embeddings of impostors, of any norm: of speakers that no trial is about.
        cohort_size: how many of the nearest to take, 2..M; all of them if None.
        kind: "s-norm", "z-norm" or "t-norm".
        max_bytes: memory for a block of cosines; speed doesn't depend on it much.

    Raises:
        ValueError: fewer than two impostors, a cohort_size outside 2..M, an unknown kind; rows that are nan,
            infinite or all zero; embeddings of another size than the cohort's.

    Source: Kenny, "Bayesian speaker verification with heavy-tailed priors", Odyssey 2010 (s-norm); Matejka et
    al., "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017 (adaptive).

    >>> norm = ScoreNorm(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> norm.score_pairs(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([-0.2828])
    """

    def __init__(
        self, cohort: Tensor, cohort_size: int | None = None, kind: str = "s-norm", max_bytes: int = 2**26
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}: give one of {', '.join(KINDS)}")
        if cohort.dim() != 2 or len(cohort) < 2:
            raise ValueError(f"the cohort has shape {tuple(cohort.shape)}: give (impostors, size), at least two")
        if cohort_size is not None and not 2 <= cohort_size <= len(cohort):
            raise ValueError(f"cohort_size is {cohort_size}, of {len(cohort)} impostors: give 2..{len(cohort)}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}: give an integer >= 1")
        self.cohort = unit_rows(cohort.detach(), "impostor")
        self.cohort_size, self.kind, self.max_bytes = cohort_size, kind, max_bytes
        if cohort_size is None:
            self._mean, self._covariance = self._moments()

    @torch.no_grad()
    def statistics(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the cohort cosines of embeddings (N, d): (N,) and (N,)."""
        if f.dim() != 2 or f.shape[1] != self.cohort.shape[1]:
            raise ValueError(
                f"embeddings have shape {tuple(f.shape)}: give (embeddings, {self.cohort.shape[1]}), of the encoder "
                "that the cohort comes from"
            )
        unit = unit_rows(f, "the embedding of sample")
        mean, std = unit.new_empty(len(unit)), unit.new_empty(len(unit))
        if self.cohort_size is None:  # <e, c> has the mean <e, mean c> and the variance e' cov(c) e
            height = max(1, self.max_bytes // (8 * unit.shape[1]))
            for part, m, s in zip(unit.split(height), mean.split(height), std.split(height)):
                m.copy_(part.double() @ self._mean)
                s.copy_(((part.double() @ self._covariance) * part).sum(1).clamp_min(0.0).sqrt())
        else:
            for rows, nearest in nearest_cosines(unit, self.cohort, self.cohort_size, self.max_bytes):
                mean[rows], std[rows] = nearest.mean(1), nearest.std(1)
        return mean, std.clamp_min_(SMALLEST_SPREAD)

    def normalise(self, cosine: Tensor, enrol: Sequence[Tensor], test: Sequence[Tensor]) -> Tensor:
        """Scores from cosines and both sides' `statistics`, of any shapes that broadcast."""
        z, t = ((cosine - mean) / std for mean, std in (enrol, test))
        return {"s-norm": 0.5 * (z + t), "z-norm": z, "t-norm": t}[self.kind]

    @torch.no_grad()
    def score_pairs(self, f: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Scores of the embeddings i with the embeddings j, enrolment with test, given f (N, d); i, j (P,); (P,)."""
        mean, std = self.statistics(f)
        unit = unit_rows(f, "the embedding of sample")
        i, j = check_pairs(i, j, len(unit), unit.device)
        cosine = cosine_pairs(unit, i, j, self.max_bytes)
        return self.normalise(cosine, (mean[i], std[i]), (mean[j], std[j]))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and unbiased covariance (d, d) of the cohort, in float64."""
        parts = self.cohort.split(max(1, self.max_bytes // (8 * self.cohort.shape[1])))
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(self.cohort)
        covariance = mean.new_zeros(len(mean), len(mean))
        for part in parts:
            centred = part.double() - mean
            covariance.addmm_(centred.T, centred)
        return mean, covariance / (len(self.cohort) - 1)
