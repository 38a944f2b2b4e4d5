"""Score normalisation with a cohort of impostors, at a cost per embedding instead of per trial."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_pairs, unit_rows
from .neighbours import nearest_cosines
from .pairs import cosine_pairs

KINDS = ("s-norm", "z-norm", "t-norm")
SMALLEST_SPREAD = 1e-4  # least std of the cohort cosines; it is smaller only if the cohort consists of copies


class ScoreNorm:
    """z-norm, t-norm and s-norm of cosine scores, and their adaptive forms.

    For a trial of the embeddings e and t, with the mean and the (unbiased) std of their cosines with the cohort::

        z = (cosine(e, t) - mean_e) / std_e
        t = (cosine(e, t) - mean_t) / std_t
        s = (z + t) / 2

    With a `cohort_size` the norm is adaptive: mean and std are those of the embedding's `cohort_size` largest cosines.
    The scores equal those of SpeechBrain's `speaker_verification_cosine.py` with the same `score_norm` and
    `cohort_size`, which compares both embeddings of every trial with the whole cohort. A std below 1e-4 counts as 1e-4.

    Args:
        cohort: (M, d) embeddings of impostors, of any norm: speakers who appear in no trial.
        cohort_size: how many of the nearest impostors to take, 2..M; None takes them all.
        kind: "s-norm", "z-norm" or "t-norm".
        max_bytes: memory for a block of cosines; it hardly affects the speed.

    Raises:
        ValueError: there are fewer than two impostors, cohort_size is outside 2..M, the kind is unknown, a row is nan,
            infinite or all zero, or the embeddings have another size than the cohort.

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
        cohort = torch.as_tensor(cohort)
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
        """The mean (N,) and std (N,) of the cosines of each embedding (N, d) with the cohort."""
        f = torch.as_tensor(f)
        if f.dim() != 2 or f.shape[1] != self.cohort.shape[1]:
            raise ValueError(
                f"embeddings have shape {tuple(f.shape)}: give (embeddings, {self.cohort.shape[1]}), from the encoder "
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
        """Scores from the cosines and the `statistics` of both sides, of any shapes that broadcast."""
        z, t = ((cosine - mean) / std for mean, std in (enrol, test))
        return {"s-norm": 0.5 * (z + t), "z-norm": z, "t-norm": t}[self.kind]

    @torch.no_grad()
    def score_pairs(self, f: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """The scores (P,) of the embeddings i (enrolment) with the embeddings j (test); f is (N, d), i and j (P,)."""
        f = torch.as_tensor(f)
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
