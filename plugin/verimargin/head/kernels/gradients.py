"""The gradients of embeddings and prototypes from the few entries of (B, C) that have one.

Both are sums over segments of a list: over the entries of a row of (B, C), and over those of a column. The list is
sorted by segment, with a stable sort, and each sum is made in an order that depends on the list alone. No program
writes where another one does, and there are no atomic additions: equal inputs give equal bits.

A segment can be very long: a class with very many samples, or a row with a million active classes. The sorted list is
therefore cut into pieces of PIECE entries. A first kernel sums each piece that lies within one segment. A second,
with one program per segment, adds these sums and what is left at both ends. So no program goes through more than 2
PIECE entries and 1/PIECE of its segment, and no float32 sum has very many terms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import jit, launch, power_of_two, run, tl

PIECE = 256  # entries
ELEMENTS = 4096  # of the rows that a program adds at a time: 32 in each of its 128 threads
TERMS = 16  # and at most so many rows


@jit
def add_entries(
    sums: tl.tensor,
    source: tl.tensor,
    index: tl.tensor,
    coefficient: tl.tensor,
    start: tl.tensor,
    end: tl.tensor,
    SIZE: tl.constexpr,
    TERMS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """sums[k] + coefficient * source[index] of the entries from start to end, k being their position modulo TERMS."""
    place = tl.arange(0, WIDTH)
    while start < end:
        entry = start + tl.arange(0, TERMS)
        factor = tl.load(coefficient + entry, mask=entry < end, other=0.0)
        i = tl.load(index + entry, mask=entry < end, other=0)
        used = (factor != 0.0)[:, None] & (place < SIZE)[None, :]
        sums += factor[:, None] * tl.load(source + i[:, None] * SIZE + place[None, :], mask=used, other=0.0)
        start += TERMS
    return sums


@jit
def piece_sums_kernel(
    source: tl.tensor,
    group: tl.tensor,
    index: tl.tensor,
    coefficient: tl.tensor,
    pieces: tl.tensor,
    PIECE: tl.constexpr,
    SIZE: tl.constexpr,
    TERMS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    piece = tl.program_id(0).to(tl.int64)
    start = piece * PIECE
    if tl.load(group + start) == tl.load(group + start + PIECE - 1):
        sums = tl.zeros((TERMS, WIDTH), tl.float32)
        sums = add_entries(sums, source, index, coefficient, start, start + PIECE, SIZE, TERMS, WIDTH)
        place = tl.arange(0, WIDTH)
        tl.store(pieces + piece * SIZE + place, tl.sum(sums, 0), mask=place < SIZE)


@jit
def segment_sums_kernel(
    source: tl.tensor,
    index: tl.tensor,
    coefficient: tl.tensor,
    pieces: tl.tensor,
    pointer: tl.tensor,
    weight: tl.tensor,
    norm: tl.tensor,
    out: tl.tensor,
    OF_PROTOTYPES: tl.constexpr,
    PIECE: tl.constexpr,
    SIZE: tl.constexpr,
    TERMS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    segment = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(pointer + segment), tl.load(pointer + segment + 1)
    place = tl.arange(0, WIDTH)
    own = segment * SIZE + place
    if begin == end:
        tl.store(out + own, tl.zeros((WIDTH,), tl.float32), mask=place < SIZE)
    else:
        first, last = (begin + PIECE - 1) // PIECE, end // PIECE  # the pieces within the segment, if first < last
        head_end = tl.where(first < last, first * PIECE, end)
        tail_start = tl.where(first < last, last * PIECE, end)
        sums = tl.zeros((TERMS, WIDTH), tl.float32)
        sums = add_entries(sums, source, index, coefficient, begin, head_end, SIZE, TERMS, WIDTH)
        while first < last:
            piece = first + tl.arange(0, TERMS)
            used = (piece < last)[:, None] & (place < SIZE)[None, :]
            sums += tl.load(pieces + piece[:, None] * SIZE + place[None, :], mask=used, other=0.0)
            first += TERMS
        sums = add_entries(sums, source, index, coefficient, tail_start, end, SIZE, TERMS, WIDTH)
        total = tl.sum(sums, 0)
        if OF_PROTOTYPES:
            n = tl.load(norm + segment)
            w = tl.load(weight + own, mask=place < SIZE, other=0.0) / n
            total = (total - w * tl.sum(total * w, 0)) / n  # without the radial part
        tl.store(out + own, total, mask=place < SIZE)


@torch.library.custom_op("verimargin::embedding_gradients", mutates_args=())
def embedding_gradients(
    weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, slope: Tensor, batch_size: int
) -> Tensor:
    """The gradient of the unit embeddings, from d loss / d cosine of the listed entries.

    Equivalent to::

        grad = torch.zeros(batch_size, d)
        grad.index_add_(0, row, (slope / norm[column])[:, None] * weight[column])

    Args:
        weight: (C, d).
        norm: (C,), of the rows of `weight`.
        row, column: (n,) int64, in any order.
        slope: (n,); entries with a slope of 0 cost nothing.

    Returns:
        (batch_size, d), the same bits for the same list.
    """
    return run(
        lambda: _launch_sums(weight, row, column, slope / norm[column], batch_size),
        lambda: embedding_gradients_reference(weight, norm, row, column, slope, batch_size),
        weight,
    )


@embedding_gradients.register_fake
def _(weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, slope: Tensor, batch_size: int) -> Tensor:
    return weight.new_empty(batch_size, weight.shape[1])


def embedding_gradients_reference(
    weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, slope: Tensor, batch_size: int
) -> Tensor:
    return _sums_reference(weight, row, column, slope / norm[column], batch_size)


@torch.library.custom_op("verimargin::prototype_gradients", mutates_args=())
def prototype_gradients(
    unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, slope: Tensor
) -> Tensor:
    """The gradient of the prototypes, from d loss / d cosine of the listed entries.

    Equivalent to::

        grad = torch.zeros_like(weight)
        grad.index_add_(0, column, slope[:, None] * unit[row])
        direction = weight / norm[:, None]
        grad = (grad - direction * (grad * direction).sum(1, keepdim=True)) / norm[:, None]

    The part along the prototype is removed because its length does not change the cosines.

    Args:
        unit: (B, d); the others as for `embedding_gradients`.

    Returns:
        (C, d), the same bits for the same list.
    """
    return run(
        lambda: _launch_sums(unit, column, row, slope, len(weight), weight, norm),
        lambda: prototype_gradients_reference(unit, weight, norm, row, column, slope),
        *(unit, weight),
    )


@prototype_gradients.register_fake
def _(unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, slope: Tensor) -> Tensor:
    return torch.empty_like(weight)


def prototype_gradients_reference(
    unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, slope: Tensor
) -> Tensor:
    grad = _sums_reference(unit, column, row, slope, len(weight))
    direction = weight / norm[:, None]
    return (grad - direction * (grad * direction).sum(1, keepdim=True)) / norm[:, None]


def _sums_reference(source: Tensor, group: Tensor, index: Tensor, coefficient: Tensor, groups: int) -> Tensor:
    used = (coefficient != 0).nonzero().squeeze(1)
    sums = source.new_zeros(groups, source.shape[1], dtype=torch.float64)
    for part in used.split(2**16):
        sums.index_add_(0, group[part], (coefficient[part, None] * source[index[part]]).double())
    return sums.to(source.dtype)


def _launch_sums(
    source: Tensor,
    group: Tensor,
    index: Tensor,
    coefficient: Tensor,
    groups: int,
    weight: Tensor | None = None,
    norm: Tensor | None = None,
) -> Tensor:
    """The weighted sums of the rows of `source`, (groups, d); for prototypes, if they are given."""
    source, size = source.contiguous(), source.shape[1]
    out = source.new_empty(groups, size)
    group, order = group.int().sort(stable=True)
    index, coefficient = index[order], coefficient[order]
    pointer = torch.searchsorted(group, torch.arange(groups + 1, dtype=torch.int32, device=group.device))
    width = power_of_two(size)
    shape = {"PIECE": PIECE, "SIZE": size, "TERMS": min(TERMS, max(1, ELEMENTS // width)), "WIDTH": width}
    pieces = source.new_empty(len(group) // PIECE, size)
    if len(pieces):
        launch(piece_sums_kernel, len(pieces), *(source, group, index, coefficient, pieces), **shape, num_warps=4)
    launch(
        segment_sums_kernel,
        groups,
        *(source, index, coefficient, pieces, pointer),
        *((source, source) if weight is None or norm is None else (weight.contiguous(), norm)),
        out,
        OF_PROTOTYPES=weight is not None,
        **shape,
        num_warps=4,
    )
    return out
