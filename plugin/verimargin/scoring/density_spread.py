"""Whether IDA's densities vary so much that they, and not the cosines, order the pairs (mathematics, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .ida import dao

RIVAL = 0.5  # times the spread of the cosines; below it, scores and cosines have a correlation of 0.86 or more

SAMPLE = 512  # embeddings whose pairs are looked at


class DensitySpread(NamedTuple):
    """The standard deviations, over pairs, of the two parts of log DAO.

    Attributes:
        cosines: of tau times the cosine.
        densities: of log(F1 + F2).
    """

    cosines: float
    densities: float

    @property
    def warning(self) -> str:
        """What to do if the densities rival the cosines; "" if they do not."""
        if self.densities < RIVAL * self.cosines:
            return ""
        return (
            "IDA's densities rival the cosines: over the pairs, log(F1 + F2) has the standard deviation "
            f"{self.densities:.3g}, and tau times the cosine {self.cosines:.3g}. IDA may then turn scores upside down, "
            "as with embeddings that have collapsed or are half-trained. Train for longer, take anchors that are "
            "embeddings (`verimargin anchors real`) instead of prototypes, a smaller tau or a larger k, or s-norm "
            "instead of IDA; `verimargin score --tau auto --dev LIST` compares taus on a list of their own."
        )


def density_spread(cosine: np.ndarray, log_dao: np.ndarray, tau: float) -> DensitySpread:
    """The spread of both parts of the scores ``tau * cosine + log(F1 + F2)`` of pairs.

    Let r be the ratio of the two, ``densities / cosines``. As long as r < 1, the correlation of the scores with the
    cosines is at least ``sqrt(1 - r^2)``; beyond that IDA may order the pairs the other way round.

    Shapes: cosine, log_dao (P,).

    >>> density_spread(np.array([0.0, 1.0]), np.array([0.0, 1.0]), tau=2.0)  # the scores are 2 cos - cos
    DensitySpread(cosines=1.0, densities=0.5)
    """
    similarity = tau * np.asarray(cosine, dtype=float)
    return DensitySpread(float(similarity.std()), float((np.asarray(log_dao, dtype=float) - similarity).std()))


def spread_over_all_pairs(unit: Tensor, log_density: Tensor, tau: float) -> DensitySpread:
    """`density_spread` over all pairs of unit embeddings (N, d) with log densities (N,), or of 512 of them."""
    step = -(-len(unit) // SAMPLE)
    unit, log_density = unit[::step], log_density[::step]
    i, j = torch.triu_indices(len(unit), len(unit), 1, device=unit.device)
    cosine = (unit @ unit.T)[i, j]
    log_dao = dao(cosine, log_density[i], log_density[j], tau, log=True)
    return density_spread(cosine.cpu().numpy(), log_dao.cpu().numpy(), tau)
