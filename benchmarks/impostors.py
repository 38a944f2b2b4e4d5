"""Error rates at very low false accept rates, exactly, from more impostor pairs than fit in memory.

Up to a FAR of f only the largest scores matter, a share f of all impostor scores. These are kept, with the two
identities of each pair, and the others are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from verimargin.metrics import DetCurve, det_curve
from verimargin.scoring.ida import dao

KEPT = 2e-4  # of the impostor scores; they have to reach FAR 1e-4 without some of the identities too
FEWEST_KEPT = 10_000
ROWS = 512  # probes that are scored at a time


class Scores(NamedTuple):
    """The scores of P probes of each of N identities against one enrolled sample of every identity."""

    genuine: np.ndarray  # (N, P)
    impostor: np.ndarray  # (K,), the largest
    enrolled: np.ndarray  # (K,), the identities of those pairs
    probed: np.ndarray

    @property
    def pairs(self) -> int:
        """The number of impostor pairs."""
        return self.genuine.size * (len(self.genuine) - 1)

    def curve(self, kept: np.ndarray | None = None) -> DetCurve:
        """The DET curve, of the identities `kept` (N,) alone if they are given.

        It is exact above the least impostor score that is held; all others count as -inf.
        """
        kept = np.ones(len(self.genuine), dtype=bool) if kept is None else kept
        genuine, number = self.genuine[kept], int(kept.sum())
        impostor = self.impostor[kept[self.enrolled] & kept[self.probed]]
        others = genuine.size * (number - 1) - len(impostor)
        if not others:
            return det_curve(genuine, impostor)
        weight = np.append(np.ones(len(impostor)), others)
        return det_curve(genuine, np.append(impostor, -np.inf), None, weight)


def tar_at_far(curve: DetCurve, far: float) -> float:
    """As `DetCurve.tar_at_far`, where the curve holds enough impostor scores.

    Raises:
        ValueError: the threshold is below the scores that are held.
    """
    value, threshold = curve.tar_at_far(far)
    if threshold == -np.inf:
        raise ValueError(f"the impostor scores that are held do not reach a FAR of {far:g}: keep more of them")
    return value


def scores(
    enrolled: Tensor, probes: Tensor, count: int | None = None, log_density: tuple[Tensor, Tensor] | None = None
) -> Scores:
    """Cosines of unit embeddings, or IDA's log DAO (tau 1) from log densities.

    Args:
        enrolled: (N, d).
        probes: (P, N, d).
        count: how many impostor scores to keep, the largest; by default enough for FAR 1e-4.
        log_density: of the enrolled embeddings (N,) and of the probes (P, N).
    """
    identities = len(enrolled)
    if count is None:
        count = max(int(KEPT * len(probes) * identities * (identities - 1)), FEWEST_KEPT)

    def block(p: int, rows: slice) -> Tensor:
        cosine = probes[p, rows] @ enrolled.T
        return cosine if log_density is None else dao(cosine, log_density[0], log_density[1][p, rows, None], log=True)

    genuine = torch.empty(identities, len(probes))
    largest = _Largest(count)
    for p in range(len(probes)):
        for start in range(0, identities, ROWS):
            rows = slice(start, min(start + ROWS, identities))
            score, own = block(p, rows), torch.arange(rows.start, rows.stop)
            genuine[rows, p] = score[own - start, own]
            score[own - start, own] = -torch.inf
            largest.add(score, start)
    impostor, probed, enrolled_of = largest.result()
    return Scores(genuine.numpy(), impostor.numpy(), enrolled_of.numpy(), probed.numpy())


class _Largest:
    """The `count` largest of many finite scores, with their rows and columns."""

    def __init__(self, count: int):
        self.count, self.bound = count, -torch.inf
        self.held = torch.empty(0), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)

    def add(self, score: Tensor, first_row: int) -> None:
        row, column = (score > self.bound).nonzero(as_tuple=True)
        value, rows, columns = self.held
        self.held = (
            torch.cat([value, score[row, column]]),
            torch.cat([rows, row + first_row]),
            torch.cat([columns, column]),
        )
        if len(self.held[0]) > 2 * self.count:
            self._drop()

    def _drop(self) -> None:
        value, index = self.held[0].topk(min(self.count, len(self.held[0])))
        self.held = value, self.held[1][index], self.held[2][index]
        if len(value) == self.count:
            self.bound = float(value[-1])

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        self._drop()
        return self.held
