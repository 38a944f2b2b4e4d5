"""What the steps of a training say about its settings, summed on the device and read when a log is written."""

from __future__ import annotations

import logging
import math
import weakref
from typing import Any

import torch
from torch import Tensor

from .._sharding import is_first_rank
from ..losses.margin_loss import MarginLoss
from ..losses.suggest import settings
from .prototype_head import PrototypeHead

logger = logging.getLogger(__name__)

FIRST_STEPS = 20  # after so many, a warning is given if almost all classes, or almost none, are active
DENSE, EMPTY = 0.7, 2.0  # the share of the classes, and the number of them, at which they are
BEGUN_STEPS, LAST_STEPS = 2000, 100  # after so many, a warning is given if the last of them show no progress
BEGUN = 0.05  # the mean target cosine by which a training has begun; it is 0 for fresh prototypes
PROBE = 16  # columns of the gradient that tell whether a prototype has one: as many as one line of a cache holds


class TrainingStatistics:
    """Collects what a `PrototypeHead` or a `MarginLoss` knows of each training step.

    Usage::

        statistics = vm.TrainingStatistics(head)
        for embeddings, labels in batches:
            loss = head(embeddings, labels)
            statistics.update()
            loss.backward()
        print(statistics.read(), statistics.without_gradient())

    A step costs no read-back from the device. After the first 20 steps there is one, to warn if more than 70 % of the
    classes are active, or fewer than two; the warning names settings that would not do so. After 2,000 steps there is
    another, to warn if the embeddings have not begun to turn to their prototypes: in the last 100 steps, the mean
    target cosine was below 0.05. A step without samples does not count.

    Args:
        source: a `PrototypeHead`; or a `MarginLoss`, whose cosines have to be given to `update`.
        embedding_size: d, for the settings in the warning; known from a `PrototypeHead`.

    Raises:
        ValueError: the source is neither of the two, or `update` is not given the cosines of a `MarginLoss`.
    """

    def __init__(self, source: PrototypeHead | MarginLoss, embedding_size: int | None = None):
        if not isinstance(source, (PrototypeHead, MarginLoss)):
            raise ValueError(f"the source of the statistics is {source!r}: give a PrototypeHead or a MarginLoss")
        self.source, self.embedding_size = source, embedding_size
        self.num_classes = 0
        self._sums = torch.zeros(2, 3)  # of the values since the last call of `read`, and how many there were of each
        self._first_active, self._steps = torch.zeros(2), 0  # the same of the first steps, and the number of all steps
        self._last_cosine = torch.zeros(2)  # the same of the target cosine, of the steps before BEGUN_STEPS
        self._touched: Tensor | None = None  # (local classes,), whether a prototype has had a gradient
        self._watched: Tensor | None = None  # the prototypes whose gradients are seen
        if isinstance(source, PrototypeHead):
            self.embedding_size, self.num_classes = source.embedding_size, source.num_classes
            self._watch_prototypes(source.weight)

    @property
    def loss(self) -> MarginLoss:
        return self.source.loss if isinstance(self.source, PrototypeHead) else self.source

    def update(self, cosine: Tensor | None = None) -> None:
        """Add a step; call it between the computation of its loss and the backward pass.

        Args:
            cosine: what the `MarginLoss` was given, (B, C) or (B, 1, C).
        """
        source, unknown = self.source, self.source.target_cosine.new_full((), math.nan)
        if isinstance(source, PrototypeHead):
            self._watch_prototypes(source.weight)
        elif cosine is None:
            raise ValueError("update was called without the cosines that the MarginLoss was given: update(cosine)")
        else:
            self.num_classes = cosine.shape[-1]
            if cosine.requires_grad:
                cosine.register_hook(self._see_cosines)
        counts = [source.active_classes, source.zero_loss] if self.loss.alpha > 1.0 else [unknown, unknown]
        values = torch.stack([*counts, source.target_cosine])
        known = ~values.isnan()  # an empty batch has no means
        step = torch.stack([torch.where(known, values, 0.0), known.to(values)])
        self._sums, self._steps = self._sums.to(step.device) + step, self._steps + 1
        if self._steps <= FIRST_STEPS:
            self._first_active = self._first_active.to(step.device) + step[:, 0]
        if self._steps == FIRST_STEPS and self.loss.alpha > 1.0:
            active, steps = self._first_active.tolist()
            if steps > 0:
                self._warn_of_active(active / steps)
        if BEGUN_STEPS - LAST_STEPS < self._steps <= BEGUN_STEPS:
            self._last_cosine = self._last_cosine.to(step.device) + step[:, 2]
        if self._steps == BEGUN_STEPS:
            cosine, steps = self._last_cosine.tolist()
            if steps > 0:
                self._warn_of_cosine(cosine / steps)

    def read(self) -> dict[str, float]:
        """The means over the steps since the last call, and the margin and the scale now; without what is unknown.

        "active classes" and "zero loss" are unknown at alpha 1, and all means if there was no step.
        """
        means = (self._sums[0] / self._sums[1]).tolist()
        self._sums = torch.zeros(2, 3)
        found = dict(zip(("active classes", "zero loss", "target cosine"), means))
        found |= {"margin": self.loss.margin.m, "scale": self.loss.scale}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def without_gradient(self) -> int | None:
        """How many prototypes have had no gradient since the last call; None if there was no backward pass.

        With sharded classes every rank has to call it, and gets the number of all ranks.
        """
        touched, self._touched = self._touched, None
        if touched is None:
            return None
        without = (~touched).sum()
        return int(self.source.shard.sum(without) if isinstance(self.source, PrototypeHead) else without)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_watched": None}  # a copy of the prototypes has no hook

    def _watch_prototypes(self, weight: Tensor) -> None:
        """See the gradients of the head's prototypes, also after other ones have taken their place."""
        if weight is self._watched or not weight.requires_grad:
            return
        see = weakref.WeakMethod(self._see_prototypes)  # a hook that refers to its tensor would never be freed

        def hook(weight: Tensor) -> None:
            if (method := see()) is not None:
                method(weight)

        self._watched = weight
        weight.register_post_accumulate_grad_hook(hook)

    def _see_prototypes(self, weight: Tensor) -> None:
        if weight.grad is not None:
            self._see((weight.grad[..., :PROBE] != 0).flatten(1).any(1))

    def _see_cosines(self, grad: Tensor) -> None:
        self._see((grad != 0).flatten(0, -2).any(0))

    def _see(self, touched: Tensor) -> None:
        self._touched = touched if self._touched is None else self._touched | touched

    def _warn_of_active(self, active: float) -> None:
        if not is_first_rank():
            return
        share = self.source.sample_rate if isinstance(self.source, PrototypeHead) else 1.0
        classes = share * self.num_classes
        few = DENSE * classes <= EMPTY  # so few that nothing lies between almost all and almost none
        if few or EMPTY <= active <= DENSE * classes:
            return
        better = settings(self.num_classes, self.embedding_size)
        logger.warning(
            "in the first %d steps %.4g of %d classes were active, which is almost %s: alpha %g with scale %g is a "
            "better start for so many classes than alpha %g with scale %g (vm.suggest)",
            *(FIRST_STEPS, active, self.num_classes, "all of them" if active > EMPTY else "none"),
            *(better["alpha"], better["scale"], self.loss.alpha, self.loss.scale),
        )

    def _warn_of_cosine(self, cosine: float) -> None:
        if is_first_rank() and cosine < BEGUN:
            logger.warning(
                "after %d steps the mean cosine between an embedding and its prototype is %.3f: the training has not "
                "begun to tell the classes apart. If the learning rate is still rising, wait; else give the prototypes "
                "a larger one, or start with shorter ones, which turn faster%s",
                *(
                    BEGUN_STEPS,
                    cosine,
                    "" if self.loss.alpha == 1.0 else "; a smaller scale or alpha also starts sooner",
                ),
            )
