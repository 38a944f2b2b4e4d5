"""Files of IDA's scorers: anchors for IDA-R, or a regressor for IDA-L."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from ..scoring.ida import DensityScorer, IDAScorer
from ..scoring.regressor import SupportSetRegressor
from .anchors import read_anchors
from .embeddings import check_encoder
from .whole import new_file, whole

S = TypeVar("S", bound=DensityScorer, covariant=True)


@dataclass(frozen=True)
class ScorerFile(Generic[S]):
    """A scorer, and what its file says of the encoder it is for ("" if nothing)."""

    path: Path
    scorer: S
    encoder: str

    def check_size(self, embedding_size: int, whose: str = "the model's") -> None:
        if embedding_size != self.scorer.embedding_size:
            raise ValueError(
                f"{self.path} is for embeddings of {self.scorer.embedding_size} numbers, {whose} have "
                f"{embedding_size}: make it with the model whose embeddings are scored"
            )

    def check_encoder(self, encoder: str) -> None:
        check_encoder(self.path, self.encoder, encoder)


def read_scorer(path: str | Path, k: int = 10, tau: float = 1.0) -> ScorerFile[DensityScorer]:
    """The scorer of a file of anchors (`verimargin anchors`, or any of embeddings) or of a regressor (.pt).

    Args:
        k, tau: of `IDAScorer`; a regressor has its own.

    Raises:
        ValueError: the file is neither, or k and tau do not fit it.
    """
    if Path(path).suffix == ".pt":
        return read_regressor(path)
    anchors = read_anchors(path)
    return ScorerFile(Path(path), IDAScorer(anchors.vectors, k, tau), anchors.encoder)


def read_regressor(path: str | Path) -> ScorerFile[SupportSetRegressor]:
    """The regressor of a file of `write_regressor`."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        regressor = SupportSetRegressor(saved["embedding_size"], saved["hidden"])
        regressor.load_state_dict(saved["state_dict"])
    except OSError:
        raise
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise ValueError(f"{path} holds no regressor: give a file that verimargin train-ssr wrote") from error
    return ScorerFile(Path(path), regressor, saved["encoder"])


def write_regressor(
    path: str | Path, regressor: SupportSetRegressor, encoder: str = "", source: dict[str, Any] | None = None
) -> None:
    """A fitted regressor with all that its scores depend on.

    Args:
        path: a new .pt file.
        encoder: `fingerprint` of the encoder whose embeddings it was fitted to.
        source: what else is to be known of it, such as the anchors' source.
    """
    path = new_file(path, ".pt")
    regressor.check_fitted()
    saved = {
        "embedding_size": regressor.embedding_size,
        "hidden": regressor.linear1.out_features,
        "state_dict": regressor.state_dict(),
        "encoder": encoder,
        "source": source or {},
    }
    with whole(path) as partial:
        torch.save(saved, partial)
