"""Margins (mathematics, section 2): each turns a target cosine and its class into a target logit and log q_y.

The logits of the other classes stay scale * cosine, with q = 1. To add a margin, subclass `Margin` and
implement `forward`.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from .._checks import check_at_least

logger = logging.getLogger(__name__)


class Margin(torch.nn.Module):
    """A margin m, which may be scaled by a factor psi for each class.

    Args:
        m: >= 0; in radians for `ArcMargin`, in cosine for the others. To schedule it, assign to `.m`, which is part
            of the state dict.
        psi: (C,) factors by global class id, kept as a buffer; None means 1 for every class.
    """

    psi: Tensor | None
    largest_m = math.inf

    def __init__(self, m: float, psi: Tensor | None = None):
        super().__init__()
        self.m = m
        if psi is not None:
            psi = torch.as_tensor(psi)
            if psi.dim() != 1 or not psi.is_floating_point() or not bool((torch.isfinite(psi) & (psi >= 0)).all()):
                raise ValueError(f"psi is {psi.dtype} of shape {tuple(psi.shape)}: give finite numbers >= 0, (C,)")
        self.register_buffer("psi", psi)

    @property
    def m(self) -> float:
        return self._m

    @m.setter
    def m(self, m: float) -> None:
        m = check_at_least("margin", m, 0.0)
        if m > self.largest_m:
            raise ValueError(f"margin is {m:g}: give at most {self.largest_m:g} to {type(self).__name__}")
        self._m = m

    def class_margin(self, label: Tensor, cosine: Tensor) -> Tensor | float:
        """psi_y m for each sample."""
        if self.psi is None:
            return self.m
        if self.psi.device != label.device:
            raise ValueError(
                f"the loss's psi is on {self.psi.device}, but the batch on {label.device}: move the loss with .to(); "
                "in a SpeechBrain recipe, list it under modules and under the checkpointer's recoverables"
            )
        return self.psi[label].to(cosine.dtype) * self.m

    def forward(self, cosine: Tensor, label: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The target logits and log q_y, both (B,), from target cosines (B,) in [-1, 1] and global class ids (B,)."""
        raise NotImplementedError

    def get_extra_state(self) -> dict:
        return {"m": self.m}

    def set_extra_state(self, state: dict) -> None:
        if state["m"] != self.m:
            logger.info("the margin is %g, as saved, not %g as constructed", state["m"], self.m)
        self.m = state["m"]

    def extra_repr(self) -> str:
        return f"m={self.m:g}" + ("" if self.psi is None else f", psi of {len(self.psi)} classes")


class NoMargin(Margin):
    """theta_y = s c_y, q_y = 1: the plain softmax, entmax or sparsemax of the cosines."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def forward(self, cosine: Tensor, label: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return scale * cosine, torch.zeros_like(cosine)


class CosMargin(Margin):
    """theta_y = s (c_y - psi_y m): CosFace, arXiv 1801.09414, eq. 4."""

    def forward(self, cosine: Tensor, label: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return scale * (cosine - self.class_margin(label, cosine)), torch.zeros_like(cosine)


class ArcMargin(Margin):
    """theta_y = s cos(arccos(c_y) + psi_y m): ArcFace, arXiv 1801.07698, eq. 3.

    Where the angle with its margin exceeds pi, the cosine is continued monotonically as
    c_y - psi_y m sin(psi_y m). The gradient is the true derivative (arcface_torch passes it straight through the
    arccos instead). m is in radians and at most pi / 2; with a much larger m the continuation would not be monotone.
    """

    largest_m = math.pi / 2

    def forward(self, cosine: Tensor, label: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        m = torch.as_tensor(self.class_margin(label, cosine), dtype=cosine.dtype, device=cosine.device)
        edge = 1.0 - (1e-7 if cosine.dtype == torch.float32 else 1e-12)  # at 1 the slope of the sine is infinite
        cosine = cosine.clamp(-edge, edge)
        sine = ((1.0 - cosine) * (1.0 + cosine)).sqrt()
        moved = torch.where(cosine > -m.cos(), cosine * m.cos() - sine * m.sin(), cosine - m * m.sin())
        return scale * moved, torch.zeros_like(cosine)


class QMargin(Margin):
    """theta_y = s c_y, log q_y = -s psi_y m: a margin in the reference measure, arXiv 2606.31664."""

    def forward(self, cosine: Tensor, label: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return scale * cosine, torch.zeros_like(cosine) - scale * self.class_margin(label, cosine)
