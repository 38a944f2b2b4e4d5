"""Exact nearest neighbours by cosine, without holding the whole matrix of cosines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 8192  # neighbours per block


def nearest_cosines(
    unit: Tensor, others: Tensor, k: int, max_bytes: int, own: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The k largest values of each row of ``unit @ others.T``, in no particular order, for one block of rows at a time.

    Yields each block as a slice of `unit`, with its cosines (B, k). Cosines are computed in blocks of `max_bytes`.

    Args:
        unit: (N, d) unit embeddings.
        others: (M, d) unit rows; M is at least k.
        own: (N,) for each row, the position in `others` that is left out, or -1 for none.
    """
    width = min(BLOCK, len(others))
    height = max(1, max_bytes // (width * unit.element_size()))
    buffer = unit.new_empty(min(height, len(unit)) * width)
    for first in range(0, len(unit), height):
        block = slice(first, min(first + height, len(unit)))
        rows = unit[block]
        nearest = unit.new_empty(len(rows), 0)
        for start in range(0, len(others), width):
            part = others[start : start + width]
            cosine = buffer[: len(rows) * len(part)].view(len(rows), len(part))
            torch.mm(rows, part.to(unit.dtype).T, out=cosine)
            if own is not None:
                _leave_out(cosine, own[block] - start)
            nearest = torch.cat([nearest, cosine.topk(min(k, len(part)), sorted=False).values], 1)
            nearest = nearest.topk(min(k, nearest.shape[1]), sorted=False).values
        yield block, nearest


def _leave_out(cosine: Tensor, column: Tensor) -> None:
    """Set the entry of each row at its column to -inf, in place, if the column lies within these cosines."""
    row = ((column >= 0) & (column < cosine.shape[1])).nonzero().squeeze(1)
    cosine[row, column[row]] = -torch.inf
