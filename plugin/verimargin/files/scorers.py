"""Files that IDA scores with: anchors for IDA-R, or a regressor for IDA-L."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..scoring.ida import DensityScorer, IDAScorer
from ..scoring.regressor import SupportSetRegressor
from .anchors import read_anchors
from .embeddings import check_encoder
from .reading import read_tensors
from .whole import new_file, whole

S = TypeVar("S", bound=DensityScorer, covariant=True)


@dataclass(frozen=True)
class ScorerFile(Generic[S]):
    """A scorer with its file, and the fingerprint of the encoder that it is for ("" if the file does not tell)."""

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
    """The scorer for a file of anchors (from `verimargin anchors`, or any embeddings) or of a regressor (.pt).

    Args:
        k, tau: of `IDAScorer`; a regressor file has its own.

    Raises:
        ValueError: the file holds neither, or k or tau does not fit the anchors.
    """
    if Path(path).suffix == ".pt":
        return read_regressor(path)
    anchors = read_anchors(path)
    return ScorerFile(Path(path), IDAScorer(anchors.vectors, k, tau), anchors.encoder)


def holds_regressor(path: str | Path) -> bool:
    """Whether a file is one of `write_regressor`."""
    if Path(path).suffix != ".pt":
        return False
    try:
        saved = read_tensors(path)
    except (ValueError, OSError):  # another reader says what is wrong with it
        return False
    return isinstance(saved, dict) and {"embedding_size", "hidden", "state_dict"} <= set(saved)


def read_regressor(path: str | Path) -> ScorerFile[SupportSetRegressor]:
    """The regressor in a file that `write_regressor` wrote."""
    saved = read_tensors(path, "a file that verimargin train-ssr wrote")
    try:
        state, sizes = saved["state_dict"], (saved["hidden"], saved["embedding_size"])
        if state["linear1.weight"].shape != sizes or not all(_is_finite(value) for value in state.values()):
            raise ValueError("a size or a number in it is wrong")
        regressor = SupportSetRegressor(sizes[1], sizes[0])
        regressor.load_state_dict(state)
        encoder = str(saved["encoder"])
    except Exception as error:  # of torch, or because it has another structure
        raise ValueError(f"{path} holds no regressor: give a file that verimargin train-ssr wrote") from error
    return ScorerFile(Path(path), regressor, encoder)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def write_regressor(
    path: str | Path, regressor: SupportSetRegressor, encoder: str = "", source: dict[str, Any] | None = None
) -> None:
    """Write a fitted regressor, with everything that its scores depend on.

    Args:
        path: a new .pt file.
        encoder: `fingerprint` of the encoder whose embeddings it was fitted to.
        source: where the regressor came from, such as the source of the anchors.
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
    content = io.BytesIO()  # of an error in writing, torch.save says neither the file nor the reason
    torch.save(saved, content)
    with whole(path) as partial:
        partial.write_bytes(content.getbuffer())
