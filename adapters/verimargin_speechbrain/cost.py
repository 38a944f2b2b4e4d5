"""Losses for `compute_cost` in SpeechBrain's speaker recipes, from cosines (N, 1, C) and speaker ids (N, 1)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
import verimargin as vm
from torch import Tensor
from verimargin.files.run_record import settings_of

from .norms import EmbeddingNorms
from .run_guard import watch_brains

if TYPE_CHECKING:
    from .kappa import KappaFace
    from .schedule import MarginSchedule


logger = logging.getLogger(__name__)


class SpeakerCost(torch.nn.Module):
    """What the costs have in common: KappaFace, a schedule, and the statistics of the training steps.

    Args:
        source: the `MarginLoss`, or the head that has one.
        kappa: a `KappaFace`, which sets the psi of the loss's margin.
    """

    def __init__(self, source: vm.MarginLoss | vm.PrototypeHead, kappa: KappaFace | None):
        super().__init__()
        # in lists, so that they do not become submodules too
        self._kappa: list[KappaFace | None] = [kappa]
        self._schedule: list[MarginSchedule | None] = [None]
        self.statistics = vm.TrainingStatistics(source)
        if kappa is not None:
            kappa.adapt(self.margin_loss.margin)
        watch_brains()

    @property
    def margin_loss(self) -> vm.MarginLoss:
        return self.statistics.loss

    @property
    def schedule(self) -> MarginSchedule | None:
        return self._schedule[0]

    def follow(self, schedule: MarginSchedule) -> None:
        """Have a schedule go on with each training step."""
        if self.schedule is not None:
            raise ValueError("the cost has a schedule already: give one MarginSchedule both ramps, margin and scale")
        self._schedule = [schedule]

    def settings(self) -> dict[str, Any]:
        """What must not change between the checkpoints of a run."""
        kappa, schedule = self._kappa[0], self.schedule
        return {
            **settings_of(self.margin_loss),
            "KappaFace": kappa is not None,
            **(kappa.settings() if kappa else {}),
            "Schedule": schedule is not None,
            **(schedule.settings() if schedule else {}),
        }

    def _begin(self, targets: Tensor, num_classes: int, training: bool) -> None:
        """What comes before the loss of a batch."""
        kappa, schedule = self._kappa[0], self.schedule
        if schedule is not None and training:
            schedule.before_step()
        if kappa is None:
            check_speakers(targets, num_classes)
        else:
            kappa.observe(targets, num_classes, self.margin_loss.margin)

    def _end(self, training: bool, cosine: Tensor | None = None) -> None:
        """What comes after the loss of a batch."""
        if training:
            self.statistics.update(cosine)
            if self.schedule is not None:
                self.schedule.after_step()


class MarginCost(SpeakerCost):
    """Any `verimargin.MarginLoss` as a recipe's `compute_cost`.

    Equivalent to ``loss(predictions.squeeze(1), targets.squeeze(1))``.

    It replaces `LogSoftmaxWrapper` together with the loss inside it. If the loss has state (such as a scheduled
    margin), list it under `modules` and under the checkpointer's `recoverables` too.

    Args:
        loss: a `MarginLoss`, in YAML e.g. ``!apply:verimargin.arcface {scale: 30, margin: 0.2}``.
        kappa: a `KappaFace`, which sets the psi of the loss's margin.
        embedding_model: ``!ref <embedding_model>``, for a loss whose margin follows the norms of the embeddings
            (`verimargin.adaface`, or Q-Margin with a `verimargin.Quality`). The cost sees them by a hook, and its
            running averages follow the batches in which this model is in training mode.

    Shapes: predictions (N, 1, C) or (N, C) cosines, targets (N, 1) or (N,) integer speaker ids. The recipes also pass
    a length, which is not used.

    >>> cost = MarginCost(vm.cosface(scale=30.0, margin=0.2))
    >>> cost(torch.tensor([[[0.8, 0.1]]]), torch.tensor([[0]])) < 1e-6
    tensor(True)
    """

    def __init__(
        self,
        loss: vm.MarginLoss,
        kappa: KappaFace | None = None,
        embedding_model: torch.nn.Module | None = None,
    ):
        if not isinstance(loss, vm.MarginLoss):
            raise ValueError(f"loss is {loss!r}: give a verimargin.MarginLoss, e.g. !apply:verimargin.q_margin")
        super().__init__(loss, kappa)
        self.loss = loss
        self._norms = None if loss.margin.quality is None else _observed_norms(loss.margin, embedding_model)
        if embedding_model is not None and self._norms is None:
            logger.warning(
                "the cost is given an embedding_model, and its %s does not depend on the norms of embeddings: it is "
                "ignored; give a margin with a quality, or leave embedding_model out",
                type(loss.margin).__name__,
            )

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        training = torch.is_grad_enabled()  # the scripts validate without gradients
        self._begin(targets, predictions.shape[-1], training)
        norms = None
        if self._norms is not None:
            norms = self._norms.take(len(predictions))
            self.loss.train(self._norms.training)  # a recipe need not list its cost under modules
        loss = self.loss(_without_time(predictions, 3), speaker_ids(targets, predictions), norms)
        self._end(training, predictions)
        return loss


class QMarginLoss(MarginCost):
    """Q-Margin as a recipe's `compute_cost`: ``MarginCost(verimargin.q_margin(alpha, scale, margin))``.

    Args:
        margin: >= 0, in cosine.
        scale: > 0. For some 6,000 speakers, take 5 to 10 with an alpha of 1.5 to 1.75.
        alpha: >= 1; 1 is CosFace.
        quality: a `verimargin.Quality`, in YAML ``!new:verimargin.Quality {weight: 0.5}``: the margin then follows the
            norm of each embedding.
        embedding_model: as for `MarginCost`; needed with `quality`.

    Source: arXiv 2606.31664.
    """

    def __init__(
        self,
        margin: float = 0.2,
        scale: float = 10.0,
        alpha: float = 1.5,
        quality: vm.Quality | None = None,
        embedding_model: torch.nn.Module | None = None,
    ):
        loss = vm.q_margin(alpha=alpha, scale=scale, margin=margin, quality=quality)
        super().__init__(loss, embedding_model=embedding_model)


def _observed_norms(margin: vm.Margin, embedding_model: torch.nn.Module | None) -> EmbeddingNorms:
    if embedding_model is None:
        raise ValueError(
            f"{type(margin).__name__} follows the norms of the embeddings, which the recipe does not hand to its cost: "
            "give the cost `embedding_model: !ref <embedding_model>`"
        )
    return EmbeddingNorms(embedding_model)


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
