"""The logits of listed pairs of a sample and a class, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from ..product import gathered_products
from .launch import blocks, jit, launch, power_of_two, run, tl

PAIRS, WIDTH = 16, 256  # per program, and the part of d at a time: 32 elements of either row in each of 128 threads


@jit
def pair_logits_kernel(
    unit: tl.tensor,
    weight: tl.tensor,
    norm: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    logit: tl.tensor,
    pairs: int,
    scale: float,
    SIZE: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    inside = pair < pairs
    i = tl.load(row + pair, mask=inside, other=0)
    j = tl.load(column + pair, mask=inside, other=0)
    products = tl.zeros((PAIRS, WIDTH), tl.float32)
    for start in tl.static_range(0, SIZE, WIDTH):
        place = start + tl.arange(0, WIDTH)
        used = inside[:, None] & (place < SIZE)[None, :]
        e = tl.load(unit + i[:, None] * SIZE + place[None, :], mask=used, other=0.0)
        w = tl.load(weight + j[:, None] * SIZE + place[None, :], mask=used, other=0.0)
        products += e * w
    n = tl.load(norm + j, mask=inside, other=1.0)
    tl.store(logit + pair, tl.sum(products, 1) * tl.div_rn(tl.zeros_like(n) + scale, n), mask=inside)


@torch.library.custom_op("verimargin::pair_logits", mutates_args=())
def pair_logits(unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, scale: float) -> Tensor:
    """The logit of each pair (row, column).

    Equivalent to::

        logit = (unit[row] * weight[column]).sum(1) * (scale / norm[column])

    without the gathered rows.

    Args:
        unit, weight: (B, d) and (C, d).
        norm: (C,), of the rows of `weight`.
        row, column: (n,) int64.

    Returns:
        (n,), in the dtype of `unit`.
    """
    return run(
        lambda: _launch_pair_logits(unit, weight, norm, row, column, scale),
        lambda: pair_logits_reference(unit, weight, norm, row, column, scale),
        *(unit, weight),
    )


@pair_logits.register_fake
def _(unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, scale: float) -> Tensor:
    return unit.new_empty(row.shape[0])  # len would need to know n


def pair_logits_reference(
    unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, scale: float
) -> Tensor:
    return gathered_products(unit, weight, row, column) * (scale / norm[column])


def _launch_pair_logits(
    unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, scale: float
) -> Tensor:
    logit = unit.new_empty(len(row))
    if len(row):
        launch(
            pair_logits_kernel,
            blocks(len(row), PAIRS),
            *(unit.contiguous(), weight.contiguous(), norm, row, column, logit, len(row), scale),
            SIZE=unit.shape[1],
            PAIRS=PAIRS,
            WIDTH=min(WIDTH, power_of_two(unit.shape[1])),
            num_warps=4,
        )
    return logit
