"""`compute_cost` of SpeechBrain's speaker recipes: cosines (N, 1, C) and speaker ids (N, 1) to a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import verimargin as vm
from torch import Tensor

if TYPE_CHECKING:
    from .kappa import KappaFace


class MarginCost(torch.nn.Module):
    """Any `verimargin.MarginLoss` in the place of `compute_cost`.

    Equivalent to ``loss(predictions.squeeze(1), targets.squeeze(1))``.

    It replaces `LogSoftmaxWrapper` together with the loss inside. If the loss has state of its own (a margin on a
    schedule), list it under `modules` and under the checkpointer's `recoverables` too.

    Args:
        loss: a `MarginLoss`, in YAML e.g. ``!apply:verimargin.arcface {scale: 30, margin: 0.2}``.
        kappa: a `KappaFace`, whose psi the loss's margin takes.

    Shapes: predictions (N, 1, C) or (N, C) cosines, targets (N, 1) or (N,) integer speaker ids; length
    is what the recipes pass on, and not used.

    >>> cost = MarginCost(vm.cosface(scale=30.0, margin=0.2))
    >>> cost(torch.tensor([[[0.8, 0.1]]]), torch.tensor([[0]])) < 1e-6
    tensor(True)
    """

    def __init__(self, loss: vm.MarginLoss, kappa: KappaFace | None = None):
        super().__init__()
        if not isinstance(loss, vm.MarginLoss):
            raise ValueError(f"loss is {loss!r}: give a verimargin.MarginLoss, e.g. !apply:verimargin.q_margin")
        self.loss = loss
        self._kappa = [kappa] if kappa is not None else []  # in a list, so that it is not a submodule too
        for kappa in self._kappa:
            kappa.adapt(loss.margin)

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        for kappa in self._kappa:
            kappa.observe(targets, predictions.shape[-1], self.loss.margin)
        return self.loss(_without_time(predictions, 3), speaker_ids(targets, predictions))


class QMarginLoss(MarginCost):
    """Q-Margin in the place of `compute_cost`: ``MarginCost(verimargin.q_margin(alpha, scale, margin))``.

    Args:
        margin: >= 0, in cosine.
        scale: > 0. For some 6,000 speakers 5 to 10, with alpha 1.5 to 1.75.
        alpha: >= 1; 1 is CosFace.

    Source: arXiv 2606.31664.
    """

    def __init__(self, margin: float = 0.2, scale: float = 10.0, alpha: float = 1.5):
        super().__init__(vm.q_margin(alpha=alpha, scale=scale, margin=margin))


def speaker_ids(targets: Tensor, predictions: Tensor) -> Tensor:
    """The recipes' (N, 1) ids as (N,); one-hot targets are how LogSoftmaxWrapper calls what it wraps."""
    # Not a TypeError: LogSoftmaxWrapper catches that, and goes on without targets, hence without a margin.
    if targets.is_floating_point() and targets.dim() == 2 and targets.shape == predictions.shape:
        raise ValueError(
            f"targets are one-hot rows of shape {tuple(targets.shape)}, as LogSoftmaxWrapper gives them: this loss "
            "has its own normaliser; put it in compute_cost itself, in the place of LogSoftmaxWrapper"
        )
    return _without_time(targets, 2)


def _without_time(tensor: Tensor, dims: int) -> Tensor:
    """(N, 1, ...) of `dims` dimensions without its time step; the loss refuses any other shape."""
    return tensor.squeeze(1) if tensor.dim() == dims and tensor.shape[1] == 1 else tensor
