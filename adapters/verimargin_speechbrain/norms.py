"""The norms of a recipe's embeddings, for losses that the script hands only cosines."""

from __future__ import annotations

import torch
from torch import Tensor


class EmbeddingNorms:
    """Remembers the norms of what the embedding model has just returned, by a forward hook.

    The content of the embedding model and of its checkpoint does not change.
    """

    def __init__(self, embedding_model: torch.nn.Module):
        if not isinstance(embedding_model, torch.nn.Module):
            raise ValueError(
                f"embedding_model is {embedding_model!r}: give the recipe's, `embedding_model: !ref <embedding_model>`"
            )
        self._model = embedding_model
        self._seen: Tensor | None = None
        embedding_model.register_forward_hook(self._see)

    @property
    def training(self) -> bool:
        return self._model.training

    def take(self, samples: int) -> Tensor:
        """The norms (N,) of the last embeddings, once."""
        if self._seen is None:
            raise RuntimeError(
                "the cost was computed without a forward pass of its embedding_model: give it the one that the recipe "
                "trains"
            )
        norms, self._seen = self._seen, None
        if len(norms) != samples:
            raise ValueError(
                f"the classifier was given {samples} samples, and the cost's embedding_model {len(norms)}: give the "
                "cost the one that the recipe trains"
            )
        return norms

    def _see(self, model: torch.nn.Module, args: tuple, embeddings: Tensor) -> None:
        self._seen = norms_of(embeddings)


def norms_of(embeddings: Tensor) -> Tensor:
    """The norms (N,) of embeddings (N, 1, d), without a gradient, in float32 if they are of half precision."""
    rows = embeddings.detach().flatten(0, -2)
    return torch.linalg.vector_norm(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
