"""Losses for `compute_cost` in SpeechBrain's speaker recipes, from cosines (N, 1, C) and speaker ids (N, 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import verimargin as vm
from torch import Tensor
from verimargin.files.run_record import settings_of

from .run_guard import watch_brains

if TYPE_CHECKING:
    from .kappa import KappaFace


class MarginCost(torch.nn.Module):
    """Any `verimargin.MarginLoss` as a recipe's `compute_cost`.

    Equivalent to ``loss(predictions.squeeze(1), targets.squeeze(1))``.

    It replaces `LogSoftmaxWrapper` together with the loss inside it. If the loss has state (such as a scheduled
    margin), list it under `modules` and under the checkpointer's `recoverables` too.

    Args:
        loss: a `MarginLoss`, in YAML e.g. ``!apply:verimargin.arcface {scale: 30, margin: 0.2}``.
        kappa: a `KappaFace`, which sets the psi of the loss's margin.

    Shapes: predictions (N, 1, C) or (N, C) cosines, targets (N, 1) or (N,) integer speaker ids. The recipes also pass
    a length, which is not used.

    >>> cost = MarginCost(vm.cosface(scale=30.0, margin=0.2))
    >>> cost(torch.tensor([[[0.8, 0.1]]]), torch.tensor([[0]])) < 1e-6
    tensor(True)
    """

    def __init__(self, loss: vm.MarginLoss, kappa: KappaFace | None = None):
        super().__init__()
        if not isinstance(loss, vm.MarginLoss):
            raise ValueError(f"loss is {loss!r}: give a verimargin.MarginLoss, e.g. !apply:verimargin.q_margin")
        self.loss = loss
        self._kappa = [kappa]  # in a list, so that it does not become a submodule too
        if kappa is not None:
            kappa.adapt(loss.margin)
        watch_brains()

    def settings(self) -> dict[str, Any]:
        """What must not change between the checkpoints of a run."""
        kappa = self._kappa[0]
        return {**settings_of(self.loss), "KappaFace": kappa is not None, **(kappa.settings() if kappa else {})}

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        kappa = self._kappa[0]
        if kappa is None:
            check_speakers(targets, predictions.shape[-1])
        else:
            kappa.observe(targets, predictions.shape[-1], self.loss.margin)
        return self.loss(_without_time(predictions, 3), speaker_ids(targets, predictions))


class QMarginLoss(MarginCost):
    """Q-Margin as a recipe's `compute_cost`: ``MarginCost(verimargin.q_margin(alpha, scale, margin))``.

    Args:
        margin: >= 0, in cosine.
        scale: > 0. For some 6,000 speakers, take 5 to 10 with an alpha of 1.5 to 1.75.
        alpha: >= 1; 1 is CosFace.

    Source: arXiv 2606.31664.
    """

    def __init__(self, margin: float = 0.2, scale: float = 10.0, alpha: float = 1.5):
        super().__init__(vm.q_margin(alpha=alpha, scale=scale, margin=margin))


def check_speakers(targets: Tensor, num_classes: int) -> None:
    """Refuse ids that no class has, on the CPU, by the two mistakes in a recipe that lead to them."""
    if targets.device.type == "cpu" and not targets.is_floating_point() and bool((targets >= num_classes).any()):
        raise ValueError(
            f"the classifier has {num_classes} classes, and a speaker has the id {int(targets.max())}: set "
            "out_n_neurons to the number of training speakers; or, if `collate_fn: !ref <training_samples>` is among "
            "the dataloader_options, which packs the number of each sample into that id, give the cost `kappa: !ref "
            "<kappa>` too"
        )


def speaker_ids(targets: Tensor, predictions: Tensor) -> Tensor:
    """The recipes' speaker ids (N, 1) as (N,). One-hot targets, as LogSoftmaxWrapper passes them, are refused."""
    # Not a TypeError: LogSoftmaxWrapper would catch that and continue without targets, and so without a margin.
    if targets.is_floating_point() and targets.dim() == 2 and targets.shape == predictions.shape:
        raise ValueError(
            f"targets are one-hot rows of shape {tuple(targets.shape)}, as LogSoftmaxWrapper passes them: this loss "
            "has its own softmax; use it as compute_cost itself, in the place of LogSoftmaxWrapper"
        )
    return _without_time(targets, 2)


def _without_time(tensor: Tensor, dims: int) -> Tensor:
    """A tensor (N, 1, ...) of `dims` dimensions without its time step; any other is left for the loss to refuse."""
    return tensor.squeeze(1) if tensor.dim() == dims and tensor.shape[1] == 1 else tensor
