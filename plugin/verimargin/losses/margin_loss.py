"""The loss on cosines: any margin with any divergence, and presets for the combinations that have names."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from .._checks import (
    check_alpha,
    check_at_least,
    check_at_most,
    check_cosines,
    check_finite,
    check_integer,
    check_labels,
    check_norms,
    check_tensor,
)
from .divergence import check_reduction, loss_with_statistics, reduce_loss
from .margins import AdaMargin, ArcMargin, CosMargin, Margin, NoMargin, QMargin
from .quality import MISSING, Quality

logger = logging.getLogger(__name__)

LARGEST_LOG_MASS = 80.0  # exp of more overflows float32
READABLE_LOG_MASS = 12.0  # at exp of more, float32 rounds the loss to more than its changes in training
OVERFLOWS = (
    f"which overflows float32 (at most {LARGEST_LOG_MASS:g}): lower the margin (also where psi scales it), the scale "
    "or alpha"
)
UNSTABLE = (
    "ArcMargin with alpha %g is the A3M loss, whose authors (arXiv 2511.13621) found its training unstable unless the "
    "prototypes are initialised anew in its course, which is not done here: early in the training, the probability of "
    "the right class falls to 0 for many samples. Q-Margin (QMargin) is their loss without this trouble"
)

IGNORED = (
    "the loss is given the norms of the embeddings, and its %s does not depend on them: they are ignored; q_margin "
    "with a quality and adaface use them"
)


class MarginLoss(torch.nn.Module):
    """The alpha-divergence loss of scaled cosines with a margin at the target.

    Equivalent to::

        logits = scale * cosine
        logits[b, y], log_q_y = margin(cosine[b, y], y, scale)
        alpha_divergence_loss(logits, target, alpha, log_q_y)

    In training mode, the running averages of a margin with a `Quality` first follow the norms of the batch.

    Args:
        margin: `NoMargin`, `CosMargin`, `ArcMargin`, `AdaMargin`, `QMargin`, or a `Margin` of your own.
        alpha: from 1 to 8. 1 is the softmax; above 1 all but the confusable classes have probability 0.
        scale: > 0. A larger alpha needs a smaller scale.
        reduction: "mean", "sum" or "none".

    Shapes: cosine (B, C), target (B,) integers, and norms (B,), those of the embeddings before their normalisation,
        which only a margin with a `Quality` needs; any other ignores them, and says so once. Half-precision cosines are
        computed in float32.

    Attributes:
        active_classes, zero_loss, target_cosine: of the last step that was computed with gradients, as in
            `PrototypeHead`.

    Raises:
        ValueError: an argument, a label or a shape is wrong, the cosines hold nan or inf, the norms are missing, or
            the margin makes a reference mass that float32 cannot represent.

    >>> MarginLoss(CosMargin(0.2), scale=30.0)(torch.tensor([[0.8, 0.1]]), torch.tensor([0])) < 1e-6
    tensor(True)
    """

    def __init__(self, margin: Margin, alpha: float = 1.0, *, scale: float, reduction: str = "mean"):
        super().__init__()
        if not isinstance(margin, Margin):
            raise ValueError(f"margin is {margin!r}: give a Margin, such as QMargin({margin!r})")
        self.margin = margin
        self.alpha = check_alpha(alpha)
        self.scale = check_at_least("scale", scale, 0.0, strict=True)
        self.reduction = check_reduction(reduction)
        self.active_classes = self.zero_loss = self.target_cosine = torch.tensor(math.nan)
        self._told: list[str] = []  # warnings that are given once
        self._check_mass()
        if isinstance(margin, ArcMargin) and self.alpha > 1.0:
            logger.warning(UNSTABLE, self.alpha)

    def _check_mass(self) -> None:
        """Refuse a margin whose q_y^(1-alpha) overflows, and warn of one at which the loss cannot be read."""
        psi = 1.0 if self.margin.psi is None or not self.margin.psi.numel() else float(self.margin.psi.max())
        quality = 0.0 if self.margin.quality is None else self.margin.quality.weight
        largest_m = self.margin.m * psi * (1.0 + quality) if isinstance(self.margin, QMargin) else 0.0
        log_mass = (self.alpha - 1.0) * self.scale * largest_m
        if log_mass > LARGEST_LOG_MASS:
            raise ValueError(f"(alpha - 1) * scale * margin is {log_mass:g}, {OVERFLOWS}")
        if log_mass > READABLE_LOG_MASS:
            largest = math.exp(log_mass) / (self.alpha * (self.alpha - 1.0))
            logger.warning(
                "(alpha - 1) * scale * margin is %g: the loss begins near %.0e, and float32 rounds its changes away; "
                "the gradients are right, but to read the loss lower the margin, the scale or alpha",
                log_mass,
                largest,
            )

    def target(self, cosine: Tensor, label: Tensor, norms: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The target logits and log q_y from the target cosines, global class ids and, for a margin with a `Quality`,
        norms; all are (B,).
        """
        sample = (cosine, label, self.scale) if self.margin.quality is None else (cosine, label, self.scale, norms)
        logit, log_q = self.margin(*sample)
        log_mass = (1.0 - self.alpha) * log_q.detach()
        check_at_most("(alpha - 1) * scale * margin", log_mass, LARGEST_LOG_MASS, OVERFLOWS)
        return logit, log_q

    def forward(self, cosine: Tensor, target: Tensor, norms: Tensor | None = None) -> Tensor:
        check_tensor("cosines", cosine)
        if cosine.dim() != 2 or not cosine.is_floating_point():
            raise ValueError(
                f"cosine is {cosine.dtype} of shape {tuple(cosine.shape)}: give floating-point (samples, classes)"
            )
        target = check_labels(target, len(cosine), cosine.shape[1], cosine.device)
        if self.margin.psi is not None and len(self.margin.psi) != cosine.shape[1]:
            raise ValueError(
                f"the margin has psi for {len(self.margin.psi)} classes, the cosines are of {cosine.shape[1]}: make "
                "them agree"
            )
        check_finite("cosines", cosine)
        check_cosines(cosine)
        if self.margin.quality is not None:
            norms = _checked_norms(norms, len(cosine))
            if self.training:
                self.margin.quality.update(norms)
        elif norms is not None and IGNORED not in self._told and not torch.compiler.is_compiling():
            self._told.append(IGNORED)
            logger.warning(IGNORED, type(self.margin).__name__)
        cosine = (cosine if cosine.dtype == torch.float64 else cosine.float()).clamp(-1.0, 1.0)
        column = target[:, None]
        target_cosine = cosine.gather(1, column).squeeze(1)
        target_logit, target_log_q = self.target(target_cosine, target, norms)
        logits = (self.scale * cosine).scatter(1, column, target_logit[:, None])
        loss, statistics = loss_with_statistics(logits, target, self.alpha, target_log_q)
        if torch.is_grad_enabled():
            self.active_classes, self.zero_loss = statistics
            self.target_cosine = target_cosine.detach().mean()
        return reduce_loss(loss, self.reduction)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, scale={self.scale:g}"


def _checked_norms(norms: Tensor | None, batch_size: int) -> Tensor:
    if norms is None:
        raise ValueError(MISSING)
    check_tensor("norms", norms)
    if norms.shape != (batch_size,) or not norms.is_floating_point():
        raise ValueError(
            f"norms are {norms.dtype} of shape {tuple(norms.shape)}: give one norm per sample, ({batch_size},), of the "
            "embeddings before their normalisation"
        )
    check_norms(norms)
    return norms


def q_margin(
    alpha: float = 1.25, scale: float = 32.0, margin: float = 0.2, quality: Quality | None = None
) -> MarginLoss:
    """Q-Margin, arXiv 2606.31664: a margin in the reference measure of the alpha-divergence.

    Settings known to work: faces (1e5 to 1e6 classes) alpha 1.25, scale 32 to 35, margin 0.2; speakers
    (some 6,000 classes) alpha 1.5 to 1.75, scale 5 to 10, margin 0.2. With a `Quality`, the margin is that of a sample
    of average quality.
    """
    return MarginLoss(QMargin(margin, quality=quality), alpha, scale=scale)


def entmax(alpha: float = 1.25, scale: float = 32.0) -> MarginLoss:
    """The alpha-divergence loss without a margin, arXiv 2501.18537: the alpha-entmax; sparsemax at alpha = 2."""
    return MarginLoss(NoMargin(), alpha, scale=scale)


def a3m(alpha: float, scale: float, margin: float) -> MarginLoss:
    """A3M, arXiv 2511.13621: ArcFace's margin (radians) inside the alpha-divergence, for alpha > 1.

    Its training is unstable unless the prototypes are initialised anew in its course, which is not done here; a warning
    says so. `q_margin` is its authors' loss without this trouble.
    """
    if alpha <= 1.0:
        raise ValueError(f"alpha is {alpha:g}: give an alpha above 1; with 1 it is arcface")
    return MarginLoss(ArcMargin(margin), alpha, scale=scale)


def arcface(scale: float = 64.0, margin: float = 0.5) -> MarginLoss:
    """ArcFace, arXiv 1801.07698: softmax with an additive angular margin (radians)."""
    return MarginLoss(ArcMargin(margin), scale=scale)


def cosface(scale: float = 64.0, margin: float = 0.4) -> MarginLoss:
    """CosFace, arXiv 1801.09414: softmax with an additive margin on the cosine."""
    return MarginLoss(CosMargin(margin), scale=scale)


def adaface(scale: float = 64.0, margin: float = 0.4, h: float = 0.333) -> MarginLoss:
    """AdaFace, arXiv 2204.00964: softmax with a margin that follows the quality of each sample.

    The quality is judged by the norm of the embedding, which `PrototypeHead` knows and `MarginLoss` takes as `norms`.
    """
    return MarginLoss(AdaMargin(margin, h), scale=scale)


def kappaface(num_classes: int, scale: float = 64.0, margin: float = 0.8) -> MarginLoss:
    """KappaFace, 10.1109/ACCESS.2023.3338648: ArcFace with the margin psi_y m0.

    psi is the buffer `loss.margin.psi` (num_classes,). It starts at 1; a `KappaTracker` is there to update it.
    """
    if isinstance(num_classes, float):  # most likely a scale: 64 classes would go unnoticed until the first step
        raise ValueError(
            f"num_classes is {num_classes!r}: give an integer, as in kappaface(num_classes, scale={num_classes:g})"
        )
    return MarginLoss(ArcMargin(margin, psi=torch.ones(check_integer("num_classes", num_classes, 1))), scale=scale)
