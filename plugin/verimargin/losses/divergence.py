"""The softargmax and the loss of the alpha-divergence (mathematics, section 1), on a full matrix of logits.

The head that streams its classes (`verimargin.head`) solves for the same threshold with the functions here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._checks import check_alpha, check_finite, check_labels, check_tensor

# More iterations than any known input needs (the tests search for the worst case). A device that would have to
# read values back in order to stop earlier runs them all.
MAX_STEPS = 32


def q_logarithm(log_u: Tensor, alpha: float) -> Tensor:
    """(u^(1-alpha) - 1) / (1 - alpha), computed from log u; at alpha = 1 this is log u itself."""
    return log_u if alpha == 1.0 else torch.expm1((1.0 - alpha) * log_u) / (1.0 - alpha)


def q_exponential(x: Tensor, alpha: float) -> Tensor:
    """[1 + (alpha-1) x]_+ ^ (1/(alpha-1)), exactly 0 where x <= -1/(alpha-1)."""
    return ((alpha - 1.0) * x).clamp_(min=-1.0).log1p_().div_(alpha - 1.0).exp_()


def mass_and_slope(x: Tensor, alpha: float, log_q: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """p_j = q_j [1 + (alpha-1) x_j]_+^(1/(alpha-1)) and -dp_j/dtau, for x = theta - tau."""
    p = q_exponential(x, alpha)
    if isinstance(log_q, Tensor):
        p = p * log_q.exp()
    base = 1.0 + (alpha - 1.0) * x
    return p, torch.where(base > 0, p / base, 0.0)


class TargetMass:
    """p_y and its slope as functions of delta = tau - origin, where q_y may be extremely small.

    Where the origin is the threshold theta_y + ln_alpha(q_y) of the target alone, p_y is 1 at delta = 0. The definition
    ``mass_and_slope(theta_y - tau, alpha, log_q)`` would multiply a huge number by a tiny one there, and their
    rounding would move tau. The factor q_y is therefore taken into the power, where it scales delta.

    Args:
        x_y: (B,), theta_y - origin.
        log_q: (B,), log q_y.
        is_origin: (B,), whether the origin is the threshold of the target alone.
    """

    def __init__(self, x_y: Tensor, log_q: Tensor, is_origin: Tensor, alpha: float):
        self.alpha = alpha
        self.x = torch.where(is_origin, 0.0, x_y)
        self.log_q = torch.where(is_origin, 0.0, log_q)
        self.rate = torch.where(is_origin, ((alpha - 1.0) * log_q).exp(), 1.0)

    def __call__(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        p, slope = mass_and_slope(self.x - self.rate * delta, self.alpha, self.log_q)
        return p, self.rate * slope


def remove_residual(p: Tensor, slope: Tensor, total: Tensor, total_slope: Tensor, alpha: float) -> Tensor:
    """p corrected so that it sums to 1, given its current sum S (`total`) and the sum K of the slopes.

    The correction is the Newton step (S - 1) / K of tau, which can be smaller than tau's own rounding. It matters
    when very many classes share a little probability each, because the rounding of tau then adds up over them. For
    alpha > 2 the slope is unbounded where a class becomes active, so p is divided by S instead.
    """
    return p / total if alpha > 2 else (p - slope * ((total - 1.0) / total_slope)).clamp_min(0.0)


def solvable(x: Tensor, alpha: float) -> Tensor:
    """x in the precision that the threshold needs: float64 for alpha > 2, where rounding tau to float32 can change
    p by orders of magnitude.
    """
    return x.double() if alpha > 2 else x


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), or x itself if it has that dtype: torch.compile loses the gradient of a no-op `.to` here."""
    return x if x.dtype == dtype else x.to(dtype)


def solve_threshold(mass: Callable[[Tensor], tuple[Tensor, Tensor]], upper: Tensor, alpha: float) -> Tensor:
    """The delta in [0, upper] at which the probabilities sum to 1.

    ``mass(delta)`` returns S = sum_j p_j and K = -dS/ddelta. The method is Newton's, on S^(alpha-1) - 1. S^(alpha-1)
    is the l_r norm, r = 1/(alpha-1), of functions that are linear in delta where they are positive. For alpha <= 2
    it is therefore convex, and Newton's method from the left is monotone; one step is exact for a single class, for
    equal classes and in the limit alpha = 1. For alpha > 2, a step that leaves the bracket is replaced by a
    bisection.
    """
    delta = torch.zeros_like(upper)
    lower, upper = delta, upper.clone()
    reads_are_free = delta.device.type == "cpu" and not torch.compiler.is_compiling()
    precision = 4 * torch.finfo(delta.dtype).eps
    for _ in range(MAX_STEPS if alpha <= 2 else 3 * MAX_STEPS):
        total, slope = mass(delta)
        lower = torch.where(total >= 1, delta, lower)
        upper = torch.where(total < 1, delta, upper)
        step = total * q_logarithm(total.log(), alpha) / slope
        proposed = delta + step
        inside = (proposed >= lower) & (proposed <= upper) if alpha <= 2 else (proposed > lower) & (proposed < upper)
        proposed = torch.where(inside | (step == 0), proposed, 0.5 * (lower + upper))
        moved, delta = (proposed - delta).abs(), proposed
        converged = moved <= precision * (1 + delta)
        if alpha <= 2:  # where the slope is small, the rounding of the total moves delta for ever
            converged |= (total - 1).abs() <= precision
        if reads_are_free and bool(converged.all()):
            break
    return delta


def alpha_softargmax(logits: Tensor, alpha: float, log_q: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The distribution p that maximises <theta, p> - D_alpha(p, q), and its threshold tau.

    Equivalent to finding, for each row theta, by bisection the tau at which::

        p = q * (1 + (alpha - 1) * (theta - tau)).clamp(min=0) ** (1 / (alpha - 1))

    sums to 1; at ``alpha = 1`` it is ``softmax(theta + log_q)`` and ``tau = logsumexp(theta + log_q)``.

    Args:
        logits: (B, C), C >= 1; an entry of -inf leaves its class out.
        alpha: from 1 to 8. 1 is the softmax, 1.5 and 2 with unit q are the 1.5-entmax and the sparsemax.
        log_q: log of the positive reference measure q, (B, C) or (C,); None means q = 1. q is not normalised: its
            mass determines how sparse p is. It is a constant: no gradient flows to it.

    Returns:
        p (B, C), exactly 0 where ``theta <= tau - 1/(alpha-1)``, and tau (B,), both differentiable with respect to
        the logits; float64 for float64 logits and float32 for any other dtype.

    Raises:
        ValueError: alpha is below 1 or not finite, the logits are not (B, C), the logits or log_q hold nan or +inf,
            or a row leaves every class out.

    Source: arXiv 2606.31664; the divergences: arXiv 2501.18537.

    >>> alpha_softargmax(torch.tensor([[2.0, 1.5, -1.0]]), alpha=2.0)[0]
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    alpha = check_alpha(alpha)
    logits = _checked_logits(logits)
    _check_masked("logits", logits)
    if log_q is not None:
        log_q = log_q.detach().to(logits).expand_as(logits)
        _check_masked("logits + log_q", logits + log_q)
    return _AlphaSoftargmax.apply(logits, log_q, alpha)


def alpha_divergence_loss(
    logits: Tensor,
    target: Tensor,
    alpha: float,
    target_log_q: Tensor | float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The Fenchel-Young loss of the alpha-divergence, with q_y at the target and q = 1 elsewhere.

    Equivalent, for one row, to::

        p, tau = alpha_softargmax(logits, alpha, log_q)     # log_q: target_log_q at y, else 0
        loss = ((alpha - 1) * (p * logits).sum() + tau) / alpha - logits[y]
        loss = loss + (q_y ** (1 - alpha) - 1) / (alpha * (alpha - 1))

    and at ``alpha = 1`` to ``logsumexp(logits + log_q) - logits[y] - target_log_q``, the cross-entropy.
    It is non-negative and convex in the logits, and its gradient is ``p - one_hot(y)``. It can be differentiated
    once, not twice.

    Args:
        logits: (B, C), any float dtype; computed in float32 or float64. The loss of an empty batch is 0.
        target: (B,) integer class ids.
        alpha: from 1 to 8.
        target_log_q: log q_y, one number or (B,); this is where Q-Margin puts its margin. It is a constant: no
            gradient flows to it.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: alpha, target, a shape, a device or reduction is not as above, or the logits hold nan or +inf.

    Source: arXiv 2606.31664.

    >>> alpha_divergence_loss(torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([0]), alpha=2.0)
    tensor(0.)
    """
    reduction = check_reduction(reduction)
    return reduce_loss(loss_with_statistics(logits, target, alpha, target_log_q)[0], reduction)


def loss_with_statistics(
    logits: Tensor, target: Tensor, alpha: float, target_log_q: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """The loss of each sample (B,), and the mean number of active classes and the share of zero loss (2,).

    The two are nan at alpha 1.
    """
    alpha = check_alpha(alpha)
    logits = _checked_logits(logits)
    _check_masked("logits", logits)
    target = check_labels(target, len(logits), logits.shape[1], logits.device)
    target_log_q = torch.as_tensor(target_log_q, dtype=logits.dtype, device=logits.device).detach()
    check_finite("target_log_q", target_log_q.reshape(-1, 1))
    check_finite("target logit", logits.gather(1, target[:, None]))
    if target_log_q.dim() and target_log_q.shape != target.shape:
        raise ValueError(
            f"target_log_q has shape {tuple(target_log_q.shape)}: give one number or {tuple(target.shape)}"
        )
    return _AlphaDivergenceLoss.apply(logits, target, target_log_q.expand_as(target), alpha)


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """The losses (B,) reduced as requested; the mean of an empty batch is 0, so that such a batch teaches nothing."""
    if reduction == "none":
        return loss
    return loss.sum() / max(loss.numel(), 1) if reduction == "mean" else loss.sum()


def check_reduction(reduction: str) -> str:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}: give 'mean', 'sum' or 'none'")
    return reduction


class _AlphaSoftargmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_q: Tensor | None, alpha: float) -> tuple[Tensor, Tensor]:
        shift = logits if log_q is None else logits + q_logarithm(log_q, alpha)
        lower = shift.amax(1, keepdim=True)
        if alpha == 1.0:
            p = slope = (shift - lower).softmax(1)
            delta = (shift - lower).logsumexp(1)
        else:
            x = solvable(logits - lower, alpha)
            weight = 0.0 if log_q is None else solvable(log_q, alpha)
            log_mass = x.new_full((), x.shape[1]).log() if log_q is None else solvable(log_q, alpha).logsumexp(1)
            upper = x.amax(1) + q_logarithm(log_mass, alpha)

            def mass(delta: Tensor) -> tuple[Tensor, Tensor]:
                p, slope = mass_and_slope(x - delta[:, None], alpha, weight)
                return p.sum(1), slope.sum(1)

            delta = solve_threshold(mass, upper, alpha)
            p, slope = mass_and_slope(x - delta[:, None], alpha, weight)
            p = remove_residual(p, slope, p.sum(1, keepdim=True), slope.sum(1, keepdim=True), alpha)
        share = slope / slope.sum(1, keepdim=True)
        ctx.save_for_backward(as_dtype(share, logits.dtype), as_dtype(slope, logits.dtype))
        return as_dtype(p, logits.dtype), lower.squeeze(1) + as_dtype(delta, logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_p: Tensor, grad_tau: Tensor) -> tuple[Tensor, None, None]:
        # dtau/dtheta_j = share_j, and dp_j = slope_j * (dtheta_j - dtau)
        share, slope = ctx.saved_tensors
        through_tau = grad_tau - (grad_p * slope).sum(1)
        return grad_p * slope + share * through_tau[:, None], None, None


class _AlphaDivergenceLoss(torch.autograd.Function):
    """The loss of each sample (B,), and two statistics (2,), which the head computes too."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, target_log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        column = target[:, None]
        target_logit = logits.gather(1, column).squeeze(1)
        others = logits.scatter(1, column, -math.inf)
        highest, alone = others.amax(1), target_logit + q_logarithm(target_log_q, alpha)
        lower = torch.maximum(highest, alone)
        x, x_y = others - lower[:, None], target_logit - lower  # from here on, `lower` is the origin
        if alpha == 1.0:
            tau = torch.logaddexp(x.logsumexp(1), x_y + target_log_q)
            residual = (x - tau[:, None]).exp_()
            target_p = (x_y + target_log_q - tau).exp()
            loss = tau - x_y - target_log_q
        else:
            x, x_y, target_log_q = (solvable(part, alpha) for part in (x, x_y, target_log_q))
            mass_y = TargetMass(x_y, target_log_q, alone >= highest, alpha)
            upper = upper_threshold(torch.maximum(x.amax(1), x_y), target_log_q, logits.shape[1], alpha)

            def mass(delta: Tensor) -> tuple[Tensor, Tensor]:
                p, slope = mass_and_slope(x - delta[:, None], alpha)
                p_y, slope_y = mass_y(delta)
                return p.sum(1) + p_y, slope.sum(1) + slope_y

            delta = solve_threshold(mass, upper, alpha)
            residual, slope = mass_and_slope(x - delta[:, None], alpha)
            target_p, target_slope = mass_y(delta)
            total, total_slope = residual.sum(1) + target_p, slope.sum(1) + target_slope
            residual = remove_residual(residual, slope, total[:, None], total_slope[:, None], alpha)
            target_p = remove_residual(target_p, target_slope, total, total_slope, alpha)
            lead = torch.where(residual > 0, residual * (x - x_y[:, None]), 0.0).sum(1)
            loss = divergence_loss_value(lead, (lower - alone) + delta, alpha)
        active = (residual > 0).sum(1)  # besides the target
        statistics = torch.stack([(active + (target_p > 0)).to(loss).mean(), (active == 0).to(loss).mean()])
        if alpha == 1.0:
            statistics = torch.full_like(statistics, math.nan)
        residual = residual.scatter(1, column, (target_p - 1.0)[:, None])
        ctx.save_for_backward(as_dtype(residual, logits.dtype))
        ctx.mark_non_differentiable(statistics)
        return as_dtype(loss, logits.dtype), statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (residual,) = ctx.saved_tensors  # p - e_y
        return grad_loss[:, None] * residual, None, None, None


def upper_threshold(highest: Tensor, target_log_q: Tensor, num_classes: int, alpha: float) -> Tensor:
    """An upper bound of tau: max theta + ln_alpha(sum q), with q_y at the target and q = 1 elsewhere."""
    others = math.log(num_classes - 1) if num_classes > 1 else -math.inf
    log_mass = torch.logaddexp(target_log_q, torch.full_like(target_log_q, others))
    return highest + q_logarithm(log_mass, alpha)


def divergence_loss_value(lead: Tensor, rise: Tensor, alpha: float) -> Tensor:
    """The loss from sum_{j != y} p_j (theta_j - theta_y) and tau - (theta_y + ln_alpha q_y).

    The formula of the loss with the terms of the target cancelled: q_y^(1-alpha) can be so large that they would
    cancel all digits. theta_y + ln_alpha q_y is the threshold if there is no other class.
    """
    return ((alpha - 1.0) * lead + rise) / alpha


def _checked_logits(logits: Tensor) -> Tensor:
    check_tensor("logits", logits)
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}: give floating-point (B, C) with C >= 1"
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_masked(name: str, rows: Tensor) -> None:
    """Refuse nan and +inf; -inf leaves a class out, and a row that leaves every class out is refused too."""
    masked = rows == -math.inf
    check_finite(name, torch.where(masked & ~masked.all(1, keepdim=True), 0.0, rows))
