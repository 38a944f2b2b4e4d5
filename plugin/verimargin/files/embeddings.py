"""Files of embeddings: the package's own format, and those that the toolkits and their users write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import check_norms
from .reading import check_regular, read_array, read_arrays, read_tensors
from .whole import new_file, whole

FORMATS = "an .npz with `ids` and `embeddings`, a torch.save of {id: embedding}, or a folder of <id>.npy"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings, with what the next step has to know about them.

    Attributes:
        ids: one id per embedding.
        vectors: (N, d), float32.
        labels: the identity of each embedding; empty if the identities are unknown.
        encoder: `verimargin.files.networks.fingerprint` of the encoder; "" if it is unknown.
        source: where the embeddings came from, as described by whoever made them.
        sizes: (N,) float64, how much went into each embedding: seconds of speech, or images of a template; None if
            that is unknown.
    """

    ids: list[str]
    vectors: Tensor
    labels: list[str] = field(default_factory=list)
    encoder: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    sizes: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.vectors) or len(self.labels) not in (0, len(self.ids)):
            raise ValueError(
                f"{len(self.vectors)} embeddings have {len(self.ids)} ids and {len(self.labels)} labels: give one id "
                "per embedding, and one label per embedding or none"
            )
        if self.sizes is not None:
            _check_sizes(self.sizes, len(self.ids), "the embeddings")


def read_embeddings(path: str | Path) -> Embeddings:
    """The embeddings of a file or folder.

    - `.npz` with `embeddings` (N, d), with `ids` (N,) or `labels` (N,) or both, and perhaps `sizes` (N,), `encoder` and
      `source`;
    - `.pt`, `.pth` or `.ckpt`: ``torch.save({id: embedding}, path)``, as the dictionaries of SpeechBrain's
      `speaker_verification_cosine.py`;
    - a folder of `<id>.npy`, as SpeechBrain's `extract_speaker_embeddings.py` writes it.

    Without `labels`, the part of an id before its first "/" is the identity, provided that all ids have a "/". Without
    `ids`, the id of an embedding is `<label>/<position>`.

    Raises:
        ValueError: there is no such file, it has another format, an id is repeated, an embedding is nan, infinite or
            all zero, or the embeddings have different sizes.
    """
    path = Path(path)
    check_regular(path)
    if path.is_dir():
        return checked(path, *_from_folder(path))
    if not path.is_file():
        raise ValueError(f"the embeddings {path} do not exist: give {FORMATS}")
    if path.suffix == ".npz":
        return _from_npz(path)
    if path.suffix in (".pt", ".pth", ".ckpt"):
        return checked(path, *_from_torch(path))
    raise ValueError(f"{path} has no known format of embeddings: give {FORMATS}")


def read_labelled_embeddings(path: str | Path) -> Embeddings:
    """The embeddings of a training set, whose identities have to be known.

    Raises:
        ValueError: as for `read_embeddings`, or the identities are unknown.
    """
    given = read_embeddings(path)
    if not given.labels:
        raise ValueError(
            f"{path} does not tell the identities: give an .npz with `embeddings` and `labels`, or with ids such as "
            "id10001/a/00001"
        )
    return given


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write a new `.npz` that `read_embeddings` reads."""
    save_npz(
        new_file(path, ".npz"),
        ids=np.array(embeddings.ids),
        embeddings=embeddings.vectors.detach().cpu().numpy(),
        **({"labels": np.array(embeddings.labels)} if embeddings.labels else {}),
        **({} if embeddings.sizes is None else {"sizes": embeddings.sizes}),
        encoder=embeddings.encoder,
        source=json.dumps(embeddings.source),
    )


def save_npz(path: str | Path, **arrays: Any) -> None:
    """Write the arrays to an `.npz`, which appears under its name when it is complete."""
    with whole(path) as partial:
        np.savez(partial, **arrays)


def checked(
    path: Path,
    ids: list[str],
    vectors: np.ndarray,
    labels: Sequence[str] | None = None,
    encoder: str = "",
    source: dict[str, Any] | None = None,
    sizes: np.ndarray | None = None,
) -> Embeddings:
    """The embeddings of `path`, refused for the reasons that `read_embeddings` names."""
    if vectors.ndim != 2 or len(vectors) != len(ids) or not len(ids) or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has {len(ids)} ids and {vectors.dtype} embeddings of shape {vectors.shape}: give one row of "
            "numbers per id"
        )
    if labels is not None and len(labels) != len(ids):
        raise ValueError(f"{path} has {len(labels)} labels for {len(ids)} embeddings: give one label per embedding")
    if labels is not None and "" in labels:
        raise ValueError(f"in {path}, the label of {ids[list(labels).index('')]} is empty: give the identity of each")
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path} has the id {_first_repeated(ids)} more than once: give one embedding per id")
    rows = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    check_norms(torch.linalg.vector_norm(rows, dim=1), f"in {path}, the embedding of", ids)
    if labels is None:
        labels = [name.partition("/")[0] for name in ids] if all("/" in name for name in ids) else []
    if sizes is not None:
        _check_sizes(sizes, len(ids), str(path))
    return Embeddings(ids, rows, list(labels), encoder, source or {}, None if sizes is None else sizes.astype(float))


def _check_sizes(sizes: np.ndarray, number: int, owner: str) -> None:
    if sizes.shape != (number,) or sizes.dtype.kind not in "fiu" or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(
            f"the `sizes` of {owner} are {sizes.dtype} of shape {sizes.shape}, for {number} embeddings: give the "
            "seconds or images of each, finite and above 0"
        )


def check_encoder(path: str | Path, found: str, wanted: str) -> None:
    """Refuse the content of `path` if it comes from another encoder than `wanted`; "" is an unknown encoder."""
    if found and wanted and found != wanted:
        raise ValueError(
            f"what {path} holds was made with the encoder {found[:12]}, but the embeddings with {wanted[:12]}: make "
            "both with the same encoder, and check that the right one has been loaded"
        )


def _from_npz(path: Path) -> Embeddings:
    held, names = read_arrays(path, ("ids", "embeddings", "labels", "encoder", "source", "sizes"))
    if "embeddings" not in held or not {"ids", "labels"} & set(held):
        raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}: save it with `ids` and `embeddings`")
    if "labels" in held and held["labels"].dtype.kind not in "iuUS":
        raise ValueError(f"the labels in {path} are {held['labels'].dtype}: give whole numbers or strings")
    ids, labels = (_strings(held[name]) if name in held else None for name in ("ids", "labels"))
    ids = ids or [f"{label}/{n}" for n, label in enumerate(labels or [])]
    encoder, source = (
        str(held[name]) if name in held and not held[name].ndim else "" for name in ("encoder", "source")
    )
    return checked(path, ids, held["embeddings"], labels, encoder, _described(source), held.get("sizes"))


def _described(source: str) -> dict[str, Any]:
    """What the package wrote as JSON; the text of anybody else's `source` as a description."""
    try:
        described = json.loads(source)
    except (json.JSONDecodeError, RecursionError):
        described = None
    if isinstance(described, dict):
        return described
    return {"description": source} if source else {}


def _from_torch(path: Path) -> tuple[list[str], np.ndarray]:
    held = read_tensors(path, FORMATS)
    if not isinstance(held, dict) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise ValueError(f"{path} holds no dictionary of tensors: save it by torch.save({{id: embedding}}, path)")
    return list(map(str, held)), _stacked(path, [v.detach().float().reshape(-1).numpy() for v in held.values()])


def _from_folder(path: Path) -> tuple[list[str], np.ndarray]:
    files = sorted(path.rglob("*.npy"))
    if not files:
        raise ValueError(f"{path} holds no .npy: give {FORMATS}")
    ids = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    return ids, _stacked(path, [read_array(file).reshape(-1) for file in files])


def _stacked(path: Path, vectors: list[np.ndarray]) -> np.ndarray:
    sizes = sorted({len(v) for v in vectors})
    if len(sizes) > 1:
        raise ValueError(f"{path} holds embeddings of the sizes {sizes}: give embeddings of one encoder")
    return np.stack(vectors)


def _strings(array: np.ndarray) -> list[str]:
    return [str(value) for value in array.reshape(-1).tolist()]


def _first_repeated(ids: list[str]) -> str:
    first = np.unique(ids, return_index=True)[1]
    return ids[int(np.setdiff1d(np.arange(len(ids)), first)[0])]
