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

from collections.abc import Iterator

import torch
from torch import Tensor

from .launch import blocks, jit, launch, run, tl
from .rounding import DEPTH

GROUP = 32  # columns that share a maximum, and the bits of a word
ACCUMULATION = 2.0**-22
NORM_BOUND = 1.001  # of unit rows, rounded or not
# A tile of rows x columns, in steps of DEPTH of the d dimensions. Three stages of both operands take 96 KiB of shared
# memory, so two programs of eight warps share an SM of an H100: one computes while the other starts or ends, which
# matters because there are only d / DEPTH = 8 steps. Of the 128 registers per thread, the accumulator takes 64.
ROWS, COLUMNS, STAGES, WARPS, REGISTERS = 128, 128, 3, 8, 128
REFERENCE_ENTRIES = 2**24  # of (B, C) that the references hold at a time
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
    row = tl.minimum(row, rows - 1).to(tl.int64)  # beyond the end, the last one again: what comes of it is not used
    column = tl.minimum(column, columns - 1).to(tl.int64)
    e_place = e + row[:, None] * SIZE + depth[None, :]
    w_place = w + column[:, None] * w_stride + depth[None, :]
    cosine = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, SIZE, DEPTH):
        cosine = tl.dot(tl.load(e_place + start), tl.trans(tl.load(w_place + start)), cosine)
    return cosine


@jit
def group_maxima_kernel(
    e: tl.tensor,
    w: tl.tensor,
    row_slack: tl.tensor,
    column_slack: tl.tensor,
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
    slack = tl.load(column_slack + column, mask=column < columns, other=float("inf"))
    lower = cosine - slack[None, :]
    lower = tl.where(column[None, :] != own[:, None], lower, float("-inf"))
    highest = tl.max(tl.reshape(lower, (ROWS, COLUMNS // GROUP, GROUP)), 2)
    highest = (highest - tl.load(row_slack + row, mask=row < rows, other=0.0)[:, None]) * scale
    group = tile * (COLUMNS // GROUP) + tl.arange(0, COLUMNS // GROUP)
    place = row.to(tl.int64)[:, None] * groups + group[None, :]
    tl.store(maxima + place, highest, mask=(row < rows)[:, None] & (group < groups)[None, :])


@jit
def mark_kernel(
    e: tl.tensor,
    w: tl.tensor,
    column_slack: tl.tensor,
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
    slack = tl.load(column_slack + column, mask=column < columns, other=float("-inf"))
    hit = (cosine + slack[None, :] > row_bound[:, None]) & (column[None, :] != own[:, None])
    bits = tl.where(hit, (1 << (column % WORD))[None, :], 0)
    word = tl.sum(tl.reshape(bits, (ROWS, COLUMNS // WORD, WORD)), 2)
    cell = row.to(tl.int64) * tiles + tile
    place = cell[:, None] * (COLUMNS // WORD) + tl.arange(0, COLUMNS // WORD)[None, :]
    tl.store(words + place, word, mask=(row < rows)[:, None])
    tl.store(counts + cell, tl.sum(ones_of(word), 1), mask=row < rows)


@jit
def ones_of(word: tl.tensor) -> tl.tensor:
    """The number of bits that are set in int32 words, by adding up pairs of bits, fours and bytes."""
    word = word.to(tl.uint32, bitcast=True)
    ones = word - ((word >> 1) & 0x55555555)
    ones = (ones & 0x33333333) + ((ones >> 2) & 0x33333333)
    return ((((ones + (ones >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


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
        ones = ones_of(word)
        start = tl.load(ends + cell, mask=cell < cells, other=0) - count
        place = start[:, None] + (tl.cumsum(ones, 1) - ones)
        row = tl.broadcast_to((cell // tiles)[:, None], (CELLS, COLUMNS // WORD))
        column = ((cell % tiles) * COLUMNS)[:, None] + part[None, :] * WORD
        for bit in tl.static_range(WORD):
            hit = (word >> bit) & 1
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
        e, w: (B, D) and (C, D) float16, the rounded unit rows, D a multiple of 64; `w` may be a slice `w[::k]`.
        e_error, residual: (B,) and (C,) float32, upper bounds of what the rounding took away.
        target: (B,) the column of each sample's own class, -1 for none.

    Returns:
        (B, ceil(C / GROUP)) float32; -inf for a group that holds nothing but the target.
    """
    _check_padded(e, w)
    return run(
        lambda: _launch_group_maxima(e, w, e_error, residual, target, scale),
        lambda: group_maxima_reference(e, w, e_error, residual, target, scale),
        *(e, w),
    )


@group_maxima.register_fake
def _(e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, target: Tensor, scale: float) -> Tensor:
    return e_error.new_empty(e.shape[0], blocks(w.shape[0], GROUP))


def group_maxima_reference(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, target: Tensor, scale: float
) -> Tensor:
    maxima = e_error.new_full((len(e), blocks(len(w), GROUP) * GROUP), -torch.inf)
    for rows in _row_blocks(e, w):
        cosine, bound = _screened(e[rows], w, e_error[rows], residual)
        maxima[rows, : len(w)] = ((cosine - bound) * scale).masked_fill_(_own(target[rows], len(w)), -torch.inf)
    return maxima.unflatten(1, (-1, GROUP)).amax(2)


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
    _check_padded(e, w)
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
    return target.new_empty(n), target.new_empty(n), target.new_empty(e.shape[0] + 1)


def survivors_reference(
    e: Tensor, w: Tensor, e_error: Tensor, residual: Tensor, bound: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found = []
    for rows in _row_blocks(e, w):
        cosine, error = _screened(e[rows], w, e_error[rows], residual)
        hit = (cosine + error > bound[rows, None]) & ~_own(target[rows], len(w))
        found.append(hit.nonzero() + hit.new_tensor([rows.start, 0], dtype=torch.long))
    row, column = torch.cat(found).unbind(1)
    pointer = torch.searchsorted(row.contiguous(), torch.arange(len(e) + 1, device=e.device))
    return row.clone(), column.clone(), pointer


def _check_padded(e: Tensor, w: Tensor) -> None:
    if e.shape[1] % DEPTH or e.shape[1] != w.shape[1] or w.stride(1) != 1:
        raise ValueError(
            f"the rounded rows have shapes {tuple(e.shape)} and {tuple(w.shape)}: pad both to one multiple of {DEPTH} "
            "columns, as round_rows does"
        )


def _row_blocks(e: Tensor, w: Tensor) -> Iterator[slice]:
    """The rows in blocks, of which the products with all columns fit into some hundred MB."""
    size = max(1, REFERENCE_ENTRIES // max(len(w), 1))
    return (slice(start, start + size) for start in range(0, max(len(e), 1), size))


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
        *(e.contiguous(), w, *slacks(e_error, residual, e.shape[1]), target.int(), maxima),
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
    row_slack, column_slack = slacks(e_error, residual, e.shape[1])
    words = torch.empty(len(e), tiles, COLUMNS // GROUP, dtype=torch.int32, device=e.device)
    counts = torch.empty(len(e), tiles, dtype=torch.int32, device=e.device)
    launch(
        mark_kernel,
        row_tiles * tiles,
        *(e.contiguous(), w, column_slack, bound - row_slack, target.int(), words, counts),
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
    return {**sizes, "num_stages": STAGES, "num_warps": WARPS, "maxnreg": REGISTERS}
