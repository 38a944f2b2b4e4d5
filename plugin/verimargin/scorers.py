"""The scorer that a file holds: anchors for IDA-R, or a regressor of IDA-L."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from .anchors import load_anchors
from .ida import DensityScorer, IDAScorer
from .regressor import load_regressor


def load_scorer(path: str | Path, k: int = 10, tau: float = 1.0) -> tuple[DensityScorer, str]:
    """The scorer of a file, and the fingerprint of the encoder it is for, "" where that isn't known.

    Args:
        path: of `verimargin anchors`, or any file of embeddings; of `verimargin train-ssr`, which has a k and tau of
            its own.
        k, tau: of `IDAScorer`.

    Raises:
        ValueError: the file is neither, or k and tau don't fit it.
    """
    if Path(path).suffix == ".pt" and Path(path).is_file():
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            saved = None
        if isinstance(saved, dict) and "state_dict" in saved:
            return load_regressor(path), saved.get("encoder", "")
    anchors = load_anchors(path)
    return IDAScorer(anchors.vectors, k, tau), anchors.encoder
