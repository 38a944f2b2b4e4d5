"""Margins (mathematics, section 2): each turns a target cosine and its class into a target logit and log q_y.

The logits of the other classes stay scale * cosine, with q = 1. To add a margin, subclass `Margin` and
implement `forward`; a margin with a `Quality` also gets the norms of the embeddings.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._checks import check_at_least
from .quality import Quality

logger = logging.getLogger(__name__)


class Margin(torch.nn.Module):
    """A margin m, which may be scaled by a factor psi for each class.

    Args:
        m: >= 0; in radians for `ArcMargin`, in cosine for the others. To schedule it, assign to `.m`, which is part
            of the state dict.
        psi: (C,) factors by global class id, kept as a buffer; None means 1 for every class.
        quality: a `Quality`, for a margin that depends on each sample too; its `forward` then gets the norms.
    """

    psi: Tensor | None
    quality: Quality | None
    largest_m = math.inf

    def __init__(self, m: float, psi: Tensor | None = None, quality: Quality | None = None):
        super().__init__()
        self.m = m
        if quality is not None and not isinstance(quality, Quality):
            raise ValueError(f"quality is {quality!r}: give a Quality, such as Quality(weight=0.5)")
        if quality is not None and not _takes_norms(self.forward):
            raise ValueError(f"{type(self).__name__} does not follow a quality: AdaMargin and QMargin do")
        self.quality = quality
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
        """The target logits and log q_y, both (B,), from target cosines (B,) in [-1, 1] and global class ids (B,).

        A margin that is given a `Quality` takes a fourth argument, norms (B,): those of the embeddings before their
        normalisation.
        """
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

    largest_m = 2.0  # as far as two cosines can be apart

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
        return scale * _cosine_of_moved_angle(cosine, m), torch.zeros_like(cosine)


class AdaMargin(Margin):
    """theta_y = s (cos(arccos(c_y) - g_i psi_y m) - (g_i psi_y m + psi_y m)): AdaFace, arXiv 2204.00964.

    g_i in [-1, 1] is the quality of the sample, which `Quality` judges by the norm of its embedding: the worst samples
    get ArcFace's margin m on the angle, average ones CosFace's on the cosine, and the best ones that on both.

    Where the moved angle is below 0, its cosine is 1, as in the authors' code; where it exceeds pi, the cosine is
    continued as for `ArcMargin` (there it is -1, without a gradient). Their code also clips all cosines to 0.999.

    Args:
        m: >= 0 and at most pi / 2, in radians and in cosine.
        h, momentum: as for `Quality`.
        psi: as for `Margin`.
    """

    largest_m = math.pi / 2

    def __init__(self, m: float = 0.4, h: float = 0.333, momentum: float = 0.01, psi: Tensor | None = None):
        super().__init__(m, psi, Quality(1.0, h, momentum))

    def forward(
        self, cosine: Tensor, label: Tensor, scale: float, norms: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        m = self.class_margin(label, cosine)
        gm = self.quality(norms).to(cosine.dtype) * m  # type: ignore[misc]
        return scale * (_cosine_of_moved_angle(cosine, -gm) - (gm + m)), torch.zeros_like(cosine)


class QMargin(Margin):
    """theta_y = s c_y, log q_y = -s psi_y m: a margin in the reference measure, arXiv 2606.31664.

    With a `Quality`, log q_y = -s psi_y m (1 + w g_i): a sample with a long embedding gets a larger margin, one that
    can hardly be recognised a smaller one. The paper names this as future work.

    Args:
        m, psi: as for `Margin`.
        quality: a `Quality` whose weight w is below 1.
    """

    largest_m = 2.0  # as far as two cosines can be apart

    def __init__(self, m: float, psi: Tensor | None = None, quality: Quality | None = None):
        super().__init__(m, psi, quality)
        if quality is not None and quality.weight == 1.0:
            raise ValueError(
                "the quality's weight is 1: give less than 1 to QMargin, so that each sample keeps a margin"
            )

    def forward(
        self, cosine: Tensor, label: Tensor, scale: float, norms: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        m = self.class_margin(label, cosine)
        if self.quality is not None:
            m = m * (1.0 + self.quality(norms).to(cosine.dtype))
        return scale * cosine, torch.zeros_like(cosine) - scale * m


def _takes_norms(forward: Callable) -> bool:
    try:
        inspect.signature(forward).bind("cosine", "label", "scale", "norms")
    except TypeError:
        return False
    return True


def _cosine_of_moved_angle(cosine: Tensor, angle: Tensor) -> Tensor:
    """cos(arccos(c) + angle), also where that leaves 0..pi: 1 below, and c - angle sin(angle) above."""
    edge = 1.0 - (1e-7 if cosine.dtype == torch.float32 else 1e-12)  # at 1 the slope of the sine is infinite
    cosine = cosine.clamp(-edge, edge)
    sine = ((1.0 - cosine) * (1.0 + cosine)).sqrt()
    moved = cosine * angle.cos() - sine * angle.sin()
    moved = torch.where((angle > 0.0) & (cosine <= -angle.cos()), cosine - angle * angle.sin(), moved)
    return torch.where((angle < 0.0) & (cosine >= angle.cos()), 1.0, moved)
