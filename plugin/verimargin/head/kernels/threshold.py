"""The threshold of each row by Newton's method, in one kernel: tens of small kernels per step would take longer.

A row has its target and a list of other entries. The equation and the method are those of
`verimargin.losses.divergence` (`solve_threshold`, `TargetMass`, `remove_residual`). All of it is computed in float64,
whatever alpha: a row has few entries, and the powers need no further care then. One program solves one row, and stops
when that row has converged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...losses.divergence import (
    MAX_STEPS,
    TargetMass,
    divergence_loss_value,
    mass_and_slope,
    q_logarithm,
    remove_residual,
    solve_threshold,
    upper_threshold,
)
from .launch import jit, launch, run, tl

BLOCK = 128  # entries of a row at a time, one per thread: more of them spill registers
PRECISION = 4 * torch.finfo(torch.float64).eps


@jit
def mass(x: tl.tensor, ALPHA: tl.constexpr) -> tl.tensor:
    """[1 + (alpha-1) x]_+ ^ (1/(alpha-1)) and its derivative; nan for nan."""
    base = 1.0 + (ALPHA - 1.0) * x
    inactive = base <= 0.0
    base = tl.where(inactive, 1.0, base)
    p = tl.where(inactive, 0.0, tl.exp(tl.log(base) * (1.0 / (ALPHA - 1.0))))
    return p, p / base


@jit
def power_logarithm(log_u: tl.tensor, ALPHA: tl.constexpr) -> tl.tensor:
    """`q_logarithm`."""
    return (1.0 - tl.exp((1.0 - ALPHA) * log_u)) * (1.0 / (ALPHA - 1.0))


@jit
def entries(logit: tl.tensor, start: tl.tensor, end: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    place = start + tl.arange(0, BLOCK)
    return tl.load(logit + place, mask=place < end, other=float("-inf")).to(tl.float64)


@jit
def corrected(
    p: tl.tensor, slope: tl.tensor, total: tl.tensor, correction: tl.tensor, ALPHA: tl.constexpr
) -> tl.tensor:
    """`remove_residual`."""
    if ALPHA > 2.0:
        result = p / total
    else:
        result = p - slope * correction
        result = tl.where(result < 0.0, 0.0, result)
    return result


@jit
def totals(
    logit: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    origin: tl.tensor,
    delta: tl.tensor,
    x_y: tl.tensor,
    factor: tl.tensor,
    rate: tl.tensor,
    ALPHA: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """sum_j p_j of a row and its slope, the target included."""
    p, slope = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    start = begin
    while start < end:
        part, part_slope = mass(entries(logit, start, end, BLOCK) - origin - delta, ALPHA)
        p += part
        slope += part_slope
        start += BLOCK
    p_y, slope_y = mass(x_y - rate * delta, ALPHA)
    return tl.sum(p, 0) + factor * p_y, tl.sum(slope, 0) + factor * rate * slope_y


@jit
def solve_kernel(
    logit: tl.tensor,
    pointer: tl.tensor,
    target_logit: tl.tensor,
    log_q: tl.tensor,
    tau_out: tl.tensor,
    p_out: tl.tensor,
    residual_out: tl.tensor,
    loss_out: tl.tensor,
    active_out: tl.tensor,
    ALPHA: tl.constexpr,
    MAX_STEPS: tl.constexpr,
    PRECISION: tl.constexpr,
    ONLY_TAU: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    begin, end = tl.load(pointer + row), tl.load(pointer + row + 1)
    y, q = tl.load(target_logit + row).to(tl.float64), tl.load(log_q + row).to(tl.float64)

    top = tl.full((BLOCK,), float("-inf"), tl.float64)
    start = begin
    while start < end:
        top = tl.maximum(top, entries(logit, start, end, BLOCK))
        start += BLOCK
    highest = tl.max(top, 0)
    alone = y + power_logarithm(q, ALPHA)
    is_origin = ~(highest > alone)
    origin = tl.where(is_origin, alone, highest)
    x_y = tl.where(is_origin, 0.0, y - origin)  # the factor q_y is taken into the power at the origin: `TargetMass`
    factor = tl.exp(tl.where(is_origin, 0.0, q))
    rate = tl.exp(tl.where(is_origin, (ALPHA - 1.0) * q, 0.0))

    delta, moved = y * 0.0, y * 0.0 + 1.0  # nan if the target is
    low = delta
    count = (end - begin).to(tl.float64)
    high = tl.maximum(highest, y) - origin + power_logarithm(tl.log(tl.exp(q) + tl.maximum(count, 1.0)), ALPHA)
    total, total_slope = delta, delta
    steps = 0
    while (moved > PRECISION * (1.0 + delta)) & (steps < MAX_STEPS):
        total, total_slope = totals(logit, begin, end, origin, delta, x_y, factor, rate, ALPHA, BLOCK)
        low = tl.where(total >= 1.0, delta, low)
        high = tl.where(total < 1.0, delta, high)
        step = total * power_logarithm(tl.log(total), ALPHA) / total_slope
        proposed = delta + step
        closed, opened = (proposed >= low) & (proposed <= high), (proposed > low) & (proposed < high)
        inside = closed if ALPHA <= 2.0 else opened
        proposed = tl.where(inside | (step == 0.0), proposed, 0.5 * (low + high))
        moved = tl.abs(proposed - delta)
        delta = proposed
        steps += 1
    tl.store(tau_out + row, (origin + delta + 0.0 * total).to(tl.float32))

    if not ONLY_TAU:
        total, total_slope = totals(logit, begin, end, origin, delta, x_y, factor, rate, ALPHA, BLOCK)
        correction = (total - 1.0) / total_slope
        lead, others = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
        active = tl.zeros((BLOCK,), tl.int32)
        start = begin
        while start < end:
            z = entries(logit, start, end, BLOCK)
            p, slope = mass(z - origin - delta, ALPHA)
            p = corrected(p, slope, total, correction, ALPHA)
            lead += tl.where(p == 0.0, 0.0, p * (z - y))
            others += p
            place = start + tl.arange(0, BLOCK)
            active += (p.to(tl.float32) > 0.0).to(tl.int32)
            tl.store(p_out + place, p.to(tl.float32), mask=place < end)
            start += BLOCK
        tl.store(residual_out + row, (0.0 - tl.sum(others, 0)).to(tl.float32))
        loss = ((ALPHA - 1.0) * tl.sum(lead, 0) + ((origin - alone) + delta)) / ALPHA
        tl.store(loss_out + row, loss.to(tl.float32))
        target_active = (mass(x_y - rate * delta, ALPHA)[0] > 0.0).to(tl.int32)
        tl.store(active_out + row, tl.sum(active, 0) + target_active)


@torch.library.custom_op("verimargin::threshold", mutates_args=())
def threshold(logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """tau of each row: with q_y at the target and q = 1 for the listed entries, the probabilities sum to 1 there.

    Equivalent, for row i, to::

        logits = torch.cat([target_logit[i : i + 1], logit[pointer[i] : pointer[i + 1]]])
        log_q = F.pad(log_q[i : i + 1], (0, len(logits) - 1))
        p, tau = alpha_softargmax(logits, alpha, log_q)

    Args:
        logit: (n,), the entries of row i from pointer[i] to pointer[i + 1], without its target; -inf leaves one out.
        pointer: (B + 1,) int64.
        target_logit, log_q: (B,).
        alpha: above 1.

    Returns:
        (B,) in the dtype of `logit`; nan where an entry of the row is.
    """
    return run(
        lambda: _launch_solve(logit, pointer, target_logit, log_q, alpha, only_tau=True)[0],
        lambda: threshold_reference(logit, pointer, target_logit, log_q, alpha),
        target_logit,
    )


@threshold.register_fake
def _(logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    return torch.empty_like(target_logit)


def threshold_reference(logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    tau, *_ = _solve_reference(logit, pointer, target_logit, log_q, alpha)
    return tau


@torch.library.custom_op("verimargin::probabilities", mutates_args=())
def probabilities(
    logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The probabilities of the listed entries, and the loss of each row.

    Equivalent, for row i, with p, logits and log_q as for `threshold`, to::

        loss = alpha_divergence_loss(logits[None], torch.tensor([0]), alpha, log_q[0])

    Args:
        all as for `threshold`.

    Returns:
        p (n,); p_y - 1 (B,) of the target, without cancellation; the loss (B,); and the number of entries with p > 0,
        the target included, (B,) int32.
    """
    return run(
        lambda: _launch_solve(logit, pointer, target_logit, log_q, alpha, only_tau=False)[1:],
        lambda: probabilities_reference(logit, pointer, target_logit, log_q, alpha),
        target_logit,
    )


@probabilities.register_fake
def _(
    logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    active = torch.empty_like(target_logit, dtype=torch.int32)
    return torch.empty_like(logit), torch.empty_like(target_logit), torch.empty_like(target_logit), active


def probabilities_reference(
    logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, *solved = _solve_reference(logit, pointer, target_logit, log_q, alpha)
    return solved[0], solved[1], solved[2], solved[3]


def _solve_reference(
    logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """tau and the results of `probabilities`."""
    z, y, q = logit.double(), target_logit.double(), log_q.double()
    row = torch.repeat_interleave(torch.arange(len(y), device=y.device), pointer.diff(), output_size=len(z))
    alone = y + q_logarithm(q, alpha)
    highest = torch.full_like(y, -torch.inf).scatter_reduce(0, row, z, "amax")
    origin = torch.maximum(highest, alone)
    x = z - origin[row]
    mass_y = TargetMass(y - origin, q, alone >= highest, alpha)

    def row_sum(values: Tensor) -> Tensor:
        return torch.zeros_like(y).index_add_(0, row, values)

    def total(delta: Tensor) -> tuple[Tensor, Tensor]:
        p, slope = mass_and_slope(x - delta[row], alpha)
        p_y, slope_y = mass_y(delta)
        return row_sum(p) + p_y, row_sum(slope) + slope_y

    upper = upper_threshold(torch.maximum(highest, y) - origin, q, len(z) + 1, alpha)
    delta = solve_threshold(total, upper, alpha)
    p, slope = mass_and_slope(x - delta[row], alpha)
    all_p, all_slope = total(delta)
    p = remove_residual(p, slope, all_p[row], all_slope[row], alpha)
    lead = row_sum(torch.where(p == 0, 0.0, p * (z - y[row])))
    loss = divergence_loss_value(lead, (origin - alone) + delta, alpha)
    active = row_sum((p.to(logit.dtype) > 0).double()) + (mass_y(delta)[0] > 0)
    tau = origin + delta + 0.0 * all_p
    p, rest, loss, tau = (result.to(logit.dtype) for result in (p, 0.0 - row_sum(p), loss, tau))
    return tau, p, rest, loss, active.int()


def _launch_solve(
    logit: Tensor, pointer: Tensor, target_logit: Tensor, log_q: Tensor, alpha: float, only_tau: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = [torch.empty_like(target_logit) for _ in range(3)]
    p, active = torch.empty_like(logit), torch.empty_like(target_logit, dtype=torch.int32)
    tau, residual, loss = rows
    launch(
        solve_kernel,
        len(target_logit),
        *(logit, pointer, target_logit, log_q, tau, p, residual, loss, active),
        ALPHA=float(alpha),
        MAX_STEPS=MAX_STEPS if alpha <= 2 else 3 * MAX_STEPS,
        PRECISION=PRECISION,
        ONLY_TAU=only_tau,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return tau, p, residual, loss, active
