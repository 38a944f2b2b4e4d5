"""The exact sparse head as the recipes' `classifier` and `compute_cost`, for many speakers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import verimargin as vm
from torch import Tensor

from .cost import SpeakerCost, speaker_ids
from .norms import norms_of

if TYPE_CHECKING:
    from .kappa import KappaFace


class PrototypeClassifier(vm.PrototypeHead):
    """A `verimargin.PrototypeHead` that replaces `ECAPA_TDNN.Classifier`, for use with `PrototypeCost`.

    In training it returns the embeddings (N, 1, d) unchanged, so that the cost never needs the (N, C) cosines; in
    evaluation it returns the cosines (N, 1, C), as the stock classifier does. List it where the recipe
    lists `classifier`: under `modules` and under the checkpointer's `recoverables`.

    Args:
        input_size: the embedding size.
        out_neurons: the number of speakers.
        loss: a `MarginLoss`, in YAML e.g. ``!apply:verimargin.q_margin {alpha: 1.5, scale: 10, margin: 0.2}``.
        screening, subcenters: as for `verimargin.PrototypeHead`.
    """

    def __init__(
        self, input_size: int, out_neurons: int, loss: vm.MarginLoss, screening: str = "auto", subcenters: int = 1
    ):
        super().__init__(input_size, out_neurons, loss, screening=screening, subcenters=subcenters)
        self._norms: Tensor | None = None  # of the last embeddings in evaluation, for a margin with a `Quality`

    def forward(self, embeddings: Tensor) -> Tensor:  # type: ignore[override]
        if self.training:
            return embeddings
        if self.loss.margin.quality is not None:
            self._norms = norms_of(embeddings)
        return self.cosine(embeddings.squeeze(1)).unsqueeze(1)

    def cost(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, d), computed by streaming over the classes."""
        return super().forward(embeddings, labels)

    def evaluation_cost(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """The loss of the cosines (N, C) that were last returned in evaluation."""
        norms, self._norms = self._norms, None
        return self.loss(cosine, labels, norms)


class PrototypeCost(SpeakerCost):
    """`compute_cost` for a `PrototypeClassifier`: takes embeddings in training and cosines in evaluation.

    Args:
        classifier: ``!ref <classifier>``. It does not become a submodule, so its parameters are not listed twice.
        kappa: a `KappaFace`, which sets the psi of the margin in the classifier's loss.
    """

    def __init__(self, classifier: PrototypeClassifier, kappa: KappaFace | None = None):
        if not isinstance(classifier, PrototypeClassifier):
            raise ValueError(
                f"classifier is a {type(classifier).__name__}: PrototypeCost needs a PrototypeClassifier; with the "
                "stock classifier use QMarginLoss or MarginCost"
            )
        super().__init__(classifier, kappa)
        self._classifier = [classifier]  # in a list, so that it does not become a submodule too

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        classifier = self._classifier[0]
        self._begin(targets, classifier.num_classes, classifier.training)
        cost = classifier.cost if classifier.training else classifier.evaluation_cost
        loss = cost(predictions.squeeze(1), speaker_ids(targets, predictions))
        self._end(classifier.training)
        return loss
