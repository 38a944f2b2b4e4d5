"""The scorer that a file holds: anchors for IDA-R, or a regressor of IDA-L."""

from __future__ import annotations

from pathlib import Path

from .anchors import load_anchors
from .ida import DensityScorer, IDAScorer


def load_scorer(path: str | Path, k: int = 10, tau: float = 1.0) -> tuple[DensityScorer, str]:
    """The scorer of a file, and the fingerprint of the encoder it is for, "" where that isn't known.

    Args:
        path: of `verimargin anchors`, or any file of embeddings; of `verimargin train-ssr`, which has a k and tau of
            its own.
        k, tau: of `IDAScorer`.

    Raises:
        ValueError: the file is neither, or k and tau don't fit it.
    """
    anchors = load_anchors(path)
    return IDAScorer(anchors.vectors, k, tau), anchors.encoder
