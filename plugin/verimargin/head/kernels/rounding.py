"""Unit rows in float16, and an upper bound of what the rounding took away from each.

Tensor cores screen the classes with the rounded rows. The screening is a proof, not a guess, so the bound holds for the
cosine <e, w> / n, where n is the norm that is computed here and by which the exact cosines are divided as well.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..._checks import EPS
from .launch import blocks, jit, launch, power_of_two, run, tl

DEPTH = 64  # rounded rows are padded with zeros to a multiple of it, so that their product needs no masks,
LEAST = 2 * DEPTH  # and at least to this size: a product of a single step would keep too much in registers
ELEMENTS = 4096  # per program: 32 in each of its 128 threads
# The float32 errors of the residual itself: a sum of d squares, its root, and the division of each element by the norm.
SAFETY_FACTOR, SAFETY_TERM = 1.0 + 2.0**-10, 2.0**-23


@jit
def round_rows_kernel(
    weight: tl.tensor,
    rounded: tl.tensor,
    norm: tl.tensor,
    residual: tl.tensor,
    rows: int,
    EPS: tl.constexpr,
    FACTOR: tl.constexpr,
    TERM: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < SIZE)[None, :]
    w = tl.load(weight + row[:, None] * SIZE + column[None, :], mask=inside, other=0.0)
    largest = tl.max(tl.abs(w), 1)
    largest = tl.where(largest > 0, largest, 1.0)
    scaled = tl.div_rn(w, tl.broadcast_to(largest[:, None], (ROWS, WIDTH)))  # no square overflows or underflows
    length = largest * tl.sqrt_rn(tl.sum(scaled * scaled, 1))
    length = tl.where(length < EPS, EPS, length)  # unlike maximum, this keeps nan
    finite = length < float("inf")
    unit = tl.div_rn(w, tl.broadcast_to(length[:, None], (ROWS, WIDTH)))
    unit = tl.where(finite[:, None], unit, 0.0)
    half = unit.to(tl.float16)
    lost = unit - half.to(tl.float32)
    bound = tl.sqrt_rn(tl.sum(lost * lost, 1)) * FACTOR + TERM
    inside = (row < rows)[:, None] & (column < PADDED)[None, :]
    tl.store(rounded + row[:, None] * PADDED + column[None, :], half, mask=inside)
    tl.store(norm + row, length, mask=row < rows)
    tl.store(residual + row, tl.where(finite, bound, float("inf")), mask=row < rows)


@torch.library.custom_op("verimargin::round_rows", mutates_args=())
def round_rows(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in float16, scaled to norm 1; their norms; and upper bounds of |w / |w| - rounded|.

    Equivalent to::

        norm = torch.linalg.vector_norm(weight, dim=1).clamp_min(EPS)
        unit = weight / norm[:, None]
        rounded = unit.half()                                          # padded with zeros to D columns
        residual = torch.linalg.vector_norm(unit - rounded, dim=1)     # rounded up

    and right for norms whose squares float32 cannot represent too. A row whose norm is nan or too large for float32 is
    rounded to 0 with an infinite residual: nothing can be excluded about it, so it is never screened out, and its
    norm makes the loss nan.

    Args:
        weight: (C, d), float32 or float64.

    Returns:
        rounded (C, D) float16, where D is `padded_size`; norm (C,) and residual (C,) in the dtype of
        `weight`.
    """
    return run(lambda: _launch_round_rows(weight), lambda: round_rows_reference(weight), weight)


@round_rows.register_fake
def _(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = weight.shape[0]
    rounded = torch.empty(rows, padded_size(weight), dtype=torch.float16, device=weight.device)
    return rounded, weight.new_empty(rows), weight.new_empty(rows)


def round_rows_reference(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    largest = F.pad(weight.abs(), (0, 1)).amax(1)
    largest = torch.where(largest > 0, largest, 1.0)
    norm = largest * torch.linalg.vector_norm(weight / largest[:, None], dim=1)
    norm = torch.where(norm < EPS, EPS, norm)
    finite = norm < torch.inf
    unit = torch.where(finite[:, None], weight / norm[:, None], 0.0)
    rounded = unit.half()
    residual = torch.linalg.vector_norm(unit - rounded, dim=1) * SAFETY_FACTOR + SAFETY_TERM
    return _padded(rounded), norm, torch.where(finite, residual, torch.inf)


def _launch_round_rows(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight = weight.contiguous()
    rows, size = weight.shape
    padded = padded_size(weight)
    rounded = torch.empty(rows, padded, dtype=torch.float16, device=weight.device)
    norm, residual = weight.new_empty(rows), weight.new_empty(rows)
    width = power_of_two(padded)
    block = max(1, ELEMENTS // width)
    launch(
        round_rows_kernel,
        blocks(rows, block),
        *(weight, rounded, norm, residual, rows),
        EPS=EPS,
        FACTOR=SAFETY_FACTOR,
        TERM=SAFETY_TERM,
        SIZE=size,
        PADDED=padded,
        ROWS=block,
        WIDTH=width,
        num_warps=4,
    )
    return rounded, norm, residual


def round_unit_rows(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (B, d) of norm 1 in float16, padded like the prototypes, and upper bounds (B,) of |e - rounded|.

    They are few, so this is plain PyTorch.
    """
    rounded = unit.half()
    return _padded(rounded), torch.linalg.vector_norm(unit - rounded, dim=1) * SAFETY_FACTOR


def padded_size(rows: Tensor) -> int:
    """The number of columns of the rounded rows: a multiple of 64, at least 128. The additional ones are 0."""
    return max(LEAST, blocks(rows.shape[1], DEPTH) * DEPTH)


def _padded(rounded: Tensor) -> Tensor:
    return F.pad(rounded, (0, padded_size(rounded) - rounded.shape[1]))
