"""The scorer that a file holds: anchors for IDA-R, or a regressor of IDA-L."""

from __future__ import annotations

from pathlib import Path

from ..scoring.ida import DensityScorer, IDAScorer
from ..scoring.regressor import load_regressor
from .anchors import load_anchors


def load_scorer(path: str | Path, k: int = 10, tau: float = 1.0, encoder: str = "") -> DensityScorer:
    """The scorer of a file of `verimargin anchors`, or any of embeddings, or of `verimargin train-ssr` (.pt).

    Args:
        k, tau: of `IDAScorer`; a regressor has its own.
        encoder: `fingerprint` of the encoder, compared where the file names one.

    Raises:
        ValueError: the file is neither, is of another encoder, or k and tau don't fit it.
    """
    if Path(path).suffix == ".pt":
        return load_regressor(path, encoder)
    return IDAScorer(load_anchors(path, encoder=encoder).vectors, k, tau)
