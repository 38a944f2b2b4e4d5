"""Similarities of listed pairs of embeddings, without a matrix of all embeddings with all embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PRODUCT_ADVANTAGE = 40  # a matrix product computes about this many cosines in the time of one from gathered rows
CACHED_PAIRS = 1024  # the gathered rows of this many pairs stay in a CPU's cache


def cosine_pairs(unit: Tensor, i: Tensor, j: Tensor, max_bytes: int = 2**26) -> Tensor:
    """The inner products of the rows i with the rows j of unit embeddings: ``(unit[i] * unit[j]).sum(1)``.

    If there are many pairs per embedding (as in IJB's lists), they are picked from the blocks of one matrix product;
    if there are few (as in VoxCeleb's lists), their rows are gathered and multiplied.

    Shapes: unit (N, d); i, j (P,) integers below N, on the same device; returns (P,).
    """
    rows, row = _used(i, len(unit))
    columns, column = _used(j, len(unit))
    if len(rows) * len(columns) > PRODUCT_ADVANTAGE * len(i):
        return _blockwise(lambda i, j: (unit[i] * unit[j]).sum(1), i, j, unit, 2 * unit.shape[1], max_bytes)
    score = unit.new_empty(len(i))
    height = max(1, max_bytes // max(1, len(columns) * unit.element_size()))
    order, ends = _by_block(row, height, len(rows))
    right = unit[columns].T
    product = unit.new_empty(height * len(columns))
    for block, (first, last) in enumerate(zip([0, *ends], ends)):
        left = unit[rows[block * height : (block + 1) * height]]
        cosine = torch.mm(left, right, out=product[: len(left) * len(columns)].view(len(left), len(columns))).flatten()
        for part in slices(first, last, max_bytes // 64):
            pairs: Tensor | slice = part if order is None else order[part]
            score[pairs] = cosine[(row[pairs].long() - block * height) * len(columns) + column[pairs]]
    return score


def mutual_likelihood_pairs(unit: Tensor, variance: Tensor, i: Tensor, j: Tensor, max_bytes: int = 2**26) -> Tensor:
    """`mutual_likelihood` of the Gaussian embeddings i and j. Shapes: unit, variance (N, d); i, j (P,)."""

    def likelihood(i: Tensor, j: Tensor) -> Tensor:
        return mutual_likelihood(unit[i], variance[i], unit[j], variance[j])

    return _blockwise(likelihood, i, j, unit, 8 * unit.shape[1], max_bytes)


def mutual_likelihood(mean1: Tensor, variance1: Tensor, mean2: Tensor, variance2: Tensor) -> Tensor:
    """PFE's score: the log-likelihood that two Gaussian embeddings share one latent code; larger is more similar.

    ``-1/2 sum_l [(mean1_l - mean2_l)^2 / (variance1_l + variance2_l) + log(variance1_l + variance2_l)]
    - d/2 log(2 pi)``, over the last dimension. In PFE the means are unit vectors.

    Source: Shi and Jain, "Probabilistic Face Embeddings", ICCV 2019, eq. 3.

    >>> zero, half = torch.zeros(2), torch.full((2,), 0.5)
    >>> mutual_likelihood(zero, half, zero, half)  # -log(2 pi)
    tensor(-1.8379)
    """
    variance = variance1 + variance2
    terms = (mean1 - mean2).square() / variance + variance.log()
    return -0.5 * (terms.sum(-1) + variance.shape[-1] * math.log(2.0 * math.pi))


def _used(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct values of `index` (all below `size`) in increasing order, and each entry's position among them."""
    used = torch.zeros(size, dtype=torch.bool, device=index.device)
    used[index] = True
    values = used.nonzero().squeeze(1)
    return values, (used.cumsum(0) - 1).int()[index]


def _by_block(row: Tensor, height: int, rows: int) -> tuple[Tensor | None, list[int]]:
    """The order that sorts rows by their block of `height` (None if they are sorted), and where each block ends."""
    block = row // height
    ends = block.bincount(minlength=-(-rows // height)).cumsum(0).tolist()
    ordered = len(block) < 2 or bool((block[1:] >= block[:-1]).all())
    return (None if ordered else block.argsort(stable=True)), ends


def _blockwise(
    similarity: Callable[[Tensor, Tensor], Tensor], i: Tensor, j: Tensor, unit: Tensor, numbers: int, max_bytes: int
) -> Tensor:
    """``similarity(i, j)`` in blocks; one pair takes `numbers` floating-point numbers of memory."""
    size = max_bytes // (numbers * unit.element_size())
    score = unit.new_empty(len(i))
    for part in slices(0, len(i), min(size, CACHED_PAIRS) if unit.device.type == "cpu" else size):
        score[part] = similarity(i[part], j[part])
    return score


def slices(first: int, last: int, size: int) -> list[slice]:
    """Consecutive slices from `first` to `last`, each of at most `size` entries (of 1 if `size` is smaller)."""
    size = max(size, 1)
    return [slice(start, min(start + size, last)) for start in range(first, last, size)]
