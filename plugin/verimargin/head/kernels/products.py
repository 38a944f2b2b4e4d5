"""The product of all embeddings with all prototypes, on tensor cores, without the (B, C) logits in memory.

Two kernels compute tiles of the float16 product; what they write is small. `group_maxima` writes a lower bound of the
largest logit of each group of columns, from which a lower bound of the threshold follows. `survivors` finds the
entries that this threshold does not rule out.

The error of a screened cosine. Let e be a unit embedding, w = prototype / norm, and e^, w^ their float16 roundings:

    |<e, w> - <e^, w^>|  <=  |e - e^| |w| + |e^| |w - w^|  <=  1.001 (|e - e^| + |w - w^|)       (Cauchy-Schwarz)

because |w| and |e^| are below 1.001. On top of it comes the arithmetic. The products of float16 numbers are exact in
float32. Tensor cores add d of them in an unknown order and may truncate instead of rounding, which costs at most 2^-23
of sum |e^_k w^_k| <= 1.001 per addition. The float32 cosine, to which the exact head is held, has an error of at most
d 2^-24 itself. ACCUMULATION (d + 16), with ACCUMULATION = 2^-22, covers both and the few operations of a comparison.

Why no atomic counter appends the survivors to a list. Their order would depend on which program is first, so they
would have to be sorted, and a list of a fixed capacity can overflow. Here each tile writes one bit per entry (1/32 of
the memory of the logits) and the number of hits in each of its rows. The cumulative sum of these numbers gives each
survivor its place, in the order of rows and columns. No program writes where another one does, so there is no race,
and the result does not depend on any order. Nothing can overflow either: the last value of the sum, the only one that
is read back, is the length of the list.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import blocks, jit, launch, run, tl

GROUP = 32  # columns that share a maximum, and the bits of a word
ACCUMULATION = 2.0**-22
NORM_BOUND = 1.001  # of unit rows, rounded or not
# A tile of rows x columns, in steps of DEPTH of the d dimensions. Three stages of both operands take 96 KiB of shared
# memory, so two programs of eight warps share an SM of an H100: one computes while the other starts or ends, which
# matters because there are only d / DEPTH = 8 steps. Of the 128 registers per thread, the accumulator takes 64.
ROWS, COLUMNS, DEPTH, STAGES, WARPS = 128, 128, 64, 3, 8
CELLS = 16  # tile rows per program when the bits are expanded


@jit
def cosine_tile(
    e: tl.tensor,
    w: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    rows: int,
    columns: int,
    w_stride: int,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tl.tensor:
    depth = tl.arange(0, DEPTH)
    e_place = e + row.to(tl.int64)[:, None] * SIZE + depth[None, :]
    w_place = w + column.to(tl.int64)[:, None] * w_stride + depth[None, :]
    row_inside, column_inside = (row < rows)[:, None], (column < columns)[:, None]
    cosine = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SIZE, DEPTH):
        if SIZE % DEPTH == 0:
            part_e = tl.load(e_place + start, mask=row_inside, other=0.0)
            part_w = tl.load(w_place + start, mask=column_inside, other=0.0)
        else:
            used = (depth + start < SIZE)[None, :]
            part_e = tl.load(e_place + start, mask=row_inside & used, other=0.0)
            part_w = tl.load(w_place + start, mask=column_inside & used, other=0.0)
        cosine = tl.dot(part_e, tl.trans(part_w), cosine)
    return cosine


@jit
def group_maxima_kernel(
    e: tl.tensor,
    w: tl.tensor,
    e_slack: tl.tensor,
    w_slack: tl.tensor,
    target: tl.tensor,
    maxima: tl.tensor,
    rows: int,
    columns: int,
    w_stride: int,
    row_tiles: int,
    groups: int,
    scale: float,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    row = program % row_tiles * ROWS + tl.arange(0, ROWS)  # first along the rows, while the prototypes are in the cache
    tile = program // row_tiles
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    cosine = cosine_tile(e, w, row, column, rows, columns, w_stride, SIZE, ROWS, COLUMNS, DEPTH)
    own = tl.load(target + row, mask=row < rows, other=-1)
    row_slack = tl.load(e_slack + row, mask=row < rows, other=0.0)
    column_slack = tl.load(w_slack + column, mask=column < columns, other=0.0)
    lower = (cosine - (row_slack[:, None] + column_slack[None, :])) * scale
    other = (column < columns)[None, :] & (column[None, :] != own[:, None])
    lower = tl.where(other, lower, float("-inf"))
    highest = tl.max(tl.reshape(lower, (ROWS, COLUMNS // GROUP, GROUP)), 2)
    group = tile * (COLUMNS // GROUP) + tl.arange(0, COLUMNS // GROUP)
    place = row.to(tl.int64)[:, None] * groups + group[None, :]
    tl.store(maxima + place, highest, mask=(row < rows)[:, None] & (group < groups)[None, :])


@jit
def mark_kernel(
    e: tl.tensor,
    w: tl.tensor,
    e_slack: tl.tensor,
    w_slack: tl.tensor,
    bound: tl.tensor,
    target: tl.tensor,
    words: tl.tensor,
    counts: tl.tensor,
    rows: int,
    columns: int,
    w_stride: int,
    row_tiles: int,
    tiles: int,
    WORD: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    row = program % row_tiles * ROWS + tl.arange(0, ROWS)
    tile = program // row_tiles
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    cosine = cosine_tile(e, w, row, column, rows, columns, w_stride, SIZE, ROWS, COLUMNS, DEPTH)
    own = tl.load(target + row, mask=row < rows, other=-1)
    row_bound = tl.load(bound + row, mask=row < rows, other=float("inf"))
    row_slack = tl.load(e_slack + row, mask=row < rows, other=0.0)
    column_slack = tl.load(w_slack + column, mask=column < columns, other=0.0)
    upper = cosine + (row_slack[:, None] + column_slack[None, :])
    other = (column < columns)[None, :] & (column[None, :] != own[:, None])
    hit = ((upper > row_bound[:, None]) & other).to(tl.int32)
    cell = row.to(tl.int64) * tiles + tile
    tl.store(counts + cell, tl.sum(hit, 1), mask=row < rows)
    bits = tl.reshape(hit << (column % WORD)[None, :], (ROWS, COLUMNS // WORD, WORD))
    place = cell[:, None] * (COLUMNS // WORD) + tl.arange(0, COLUMNS // WORD)[None, :]
    tl.store(words + place, tl.sum(bits, 2), mask=(row < rows)[:, None])


@jit
def place_kernel(
    words: tl.tensor,
    counts: tl.tensor,
    ends: tl.tensor,
    found_row: tl.tensor,
    found_column: tl.tensor,
    cells: int,
    tiles: int,
    WORD: tl.constexpr,
    CELLS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    count = tl.load(counts + cell, mask=cell < cells, other=0)
    if tl.max(count, 0) > 0:  # most tile rows are empty
        part = tl.arange(0, COLUMNS // WORD)
        inside = (cell < cells)[:, None]
        word = tl.load(words + cell[:, None] * (COLUMNS // WORD) + part[None, :], mask=inside, other=0)
        word = word.to(tl.uint32, bitcast=True)
        ones = word - ((word >> 1) & 0x55555555)  # the number of bits that are set, by adding pairs, fours and bytes
        ones = (ones & 0x33333333) + ((ones >> 2) & 0x33333333)
        ones = (((ones + (ones >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24
        ones = ones.to(tl.int32)
        start = tl.load(ends + cell, mask=cell < cells, other=0) - count
        place = start[:, None] + (tl.cumsum(ones, 1) - ones)
        row = tl.broadcast_to((cell // tiles)[:, None], (CELLS, COLUMNS // WORD))
        column = ((cell % tiles) * COLUMNS)[:, None] + part[None, :] * WORD
        for bit in tl.static_range(WORD):
            hit = ((word >> bit) & 1).to(tl.int32)
            tl.store(found_row + place, row, mask=hit > 0)
            tl.store(found_column + place, column + bit, mask=hit > 0)
            place += hit


def slacks(e_error: Tensor, residual: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What the error bound of a screened cosine is made of: one term per row and one per column, to be added."""
    return NORM_BOUND * e_error + ACCUMULATION * (size + 16), NORM_BOUND * residual


@torch.library.custom_op("verimargin::group_maxima", mutates_args=())
def group_maxima(e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, target: Tensor, scale: float) -> Tensor:
    """A lower bound of the largest logit in each group of `GROUP` columns, the target's not counted.

    Equivalent to::

        lower = scale * (e.float() @ w.float().T - bound)            # the bound of the screening error, (B, C)
        lower[arange(B), target] = -inf                              # where target >= 0
        maxima = lower.unflatten(1, (-1, GROUP)).amax(2)             # the last group may be smaller

    Args:
        e, w: (B, d) and (C, d) float16, the rounded unit rows; the rows of `w` may be a slice `w[::k]`.
        e_error, residual: (B,) and (C,) float32, upper bounds of what the rounding took away.
        target: (B,) the column of each sample's own class, -1 for none.

    Returns:
        (B, ceil(C / GROUP)) float32; -inf for a group that holds nothing but the target.
    """
    return run(
        lambda: _launch_group_maxima(e, w, e_error, residual, target, scale),
        lambda: group_maxima_reference(e, w, e_error, residual, target, scale),
        *(e, w),
    )


@group_maxima.register_fake
def _(e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, target: Tensor, scale: float) -> Tensor:
    return e_error.new_empty(len(e), blocks(len(w), GROUP))


def group_maxima_reference(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, target: Tensor, scale: float
) -> Tensor:
    cosine, bound = _screened(e, w, e_error, residual)
    lower = ((cosine - bound) * scale).masked_fill_(_own(target, len(w)), -torch.inf)
    padded = lower.new_full((len(e), blocks(len(w), GROUP) * GROUP), -torch.inf)
    padded[:, : len(w)] = lower
    return padded.unflatten(1, (-1, GROUP)).amax(2)


@torch.library.custom_op("verimargin::survivors", mutates_args=())
def survivors(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, bound: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The entries whose cosine may be above the bound of their row, the targets not counted, sorted by row and column.

    Equivalent to::

        upper = e.float() @ w.float().T + error                      # the bound of the screening error, (B, C)
        upper[arange(B), target] = -inf                              # where target >= 0
        row, column = (upper > bound[:, None]).nonzero(as_tuple=True)
        pointer = torch.searchsorted(row, arange(B + 1))

    Args:
        bound: (B,) float32, in cosines; the others as for `group_maxima`.

    Returns:
        row (n,), column (n,), and pointer (B + 1,): the entries of row i are those from pointer[i] to pointer[i + 1].
        All int64. n is read back from the device.
    """
    return run(
        lambda: _launch_survivors(e, w, e_error, residual, bound, target),
        lambda: survivors_reference(e, w, e_error, residual, bound, target),
        *(e, w),
    )


@survivors.register_fake
def _(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, bound: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = torch.library.get_ctx().new_dynamic_size()
    return target.new_empty(n), target.new_empty(n), target.new_empty(len(e) + 1)


def survivors_reference(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, bound: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    cosine, error = _screened(e, w, e_error, residual)
    hit = (cosine + error > bound[:, None]) & ~_own(target, len(w))
    row, column = hit.nonzero(as_tuple=True)
    pointer = torch.cat([row.new_zeros(1), hit.sum(1).cumsum(0)])
    return row, column, pointer


def _screened(e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    row_slack, column_slack = slacks(e_error, residual, e.shape[1])
    return e.float() @ w.float().t(), row_slack[:, None] + column_slack


def _own(target: Tensor, columns: int) -> Tensor:
    return target[:, None] == torch.arange(columns, device=target.device)


def _launch_group_maxima(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, target: Tensor, scale: float
) -> Tensor:
    row_tiles, tiles, groups = blocks(len(e), ROWS), blocks(len(w), COLUMNS), blocks(len(w), GROUP)
    maxima = e_error.new_empty(len(e), groups)
    launch(
        group_maxima_kernel,
        row_tiles * tiles,
        *(e.contiguous(), w, *slacks(e_error, residual, e.shape[1]), target, maxima),
        *(len(e), len(w), w.stride(0), row_tiles, groups, scale),
        GROUP=GROUP,
        **_tile_constants(e),
    )
    return maxima


def _launch_survivors(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, bound: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    words, counts = mark(e, w, e_error, residual, bound, target)
    ends = counts.view(-1).cumsum(0)
    pointer = torch.cat([ends.new_zeros(1), ends.view_as(counts)[:, -1]])
    return *place(words, counts, ends, int(ends[-1])), pointer


def mark(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, bound: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """One bit per entry, (B, tiles, COLUMNS / 32) int32, and the number of bits set, (B, tiles) int32."""
    row_tiles, tiles = blocks(len(e), ROWS), blocks(len(w), COLUMNS)
    words = torch.empty(len(e), tiles, COLUMNS // GROUP, dtype=torch.int32, device=e.device)
    counts = torch.empty(len(e), tiles, dtype=torch.int32, device=e.device)
    launch(
        mark_kernel,
        row_tiles * tiles,
        *(e.contiguous(), w, *slacks(e_error, residual, e.shape[1]), bound, target, words, counts),
        *(len(e), len(w), w.stride(0), row_tiles, tiles),
        WORD=GROUP,
        **_tile_constants(e),
    )
    return words, counts


def place(words: Tensor, counts: Tensor, ends: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The row and the column of each of the `total` bits that are set; `ends` is the cumulative sum of the counts."""
    row, column = ends.new_empty(total), ends.new_empty(total)
    if total:
        launch(
            place_kernel,
            blocks(counts.numel(), CELLS),
            *(words, counts, ends, row, column, counts.numel(), counts.shape[1]),
            WORD=GROUP,
            CELLS=CELLS,
            COLUMNS=COLUMNS,
            num_warps=1,
        )
    return row, column


def _tile_constants(e: Tensor) -> dict[str, int]:
    sizes = {"SIZE": e.shape[1], "ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
    return {**sizes, "num_stages": STAGES, "num_warps": WARPS}
