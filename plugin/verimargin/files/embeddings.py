"""Files of embeddings: the package's own, and those that the toolkits and their users write."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .whole import save_npz

FORMATS = "an .npz with `ids` and `embeddings`, a torch.save of {id: embedding}, or a folder of <id>.npy"


class Embeddings(NamedTuple):
    ids: list[str]
    vectors: Tensor  # (N, d), float32


def read_embeddings(path: str | Path) -> Embeddings:
    """The embeddings of a file or folder, one for each id.

    - `.npz` with `ids` (N,) and `embeddings` (N, d);
    - `.pt`, `.pth` or `.ckpt`: ``torch.save({id: embedding}, path)``, the dictionaries of SpeechBrain's
      `speaker_verification_cosine.py`;
    - a folder of `<id>.npy`, as SpeechBrain's `extract_speaker_embeddings.py` writes.

    Raises:
        ValueError: no such file, another format, a repeated id, an embedding that is nan, infinite or all
            zero, or embeddings of different sizes.
    """
    path = Path(path)
    if path.is_dir():
        ids, vectors = _from_folder(path)
    elif not path.is_file():
        raise ValueError(f"the embeddings {path} do not exist: give {FORMATS}")
    elif path.suffix == ".npz":
        ids, vectors = _from_npz(path)
    elif path.suffix in (".pt", ".pth", ".ckpt"):
        ids, vectors = _from_torch(path)
    else:
        raise ValueError(f"{path} is no file of embeddings that is known here: give {FORMATS}")
    return checked(path, ids, vectors)


def write_embeddings(path: str | Path, ids: list[str], vectors: Tensor) -> None:
    """An `.npz` that `read_embeddings` reads; nothing stands under its name before all is written."""
    save_npz(Path(path), ids=np.array(ids), embeddings=vectors.detach().cpu().numpy())


def _from_npz(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in ("ids", "embeddings") if name in file}
            names = file.files
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): save `ids` as strings or integers, not as objects"
        ) from error
    if len(held) < 2:
        raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}: save it with `ids` and `embeddings`")
    return [str(name) for name in held["ids"].reshape(-1).tolist()], held["embeddings"]


def _from_torch(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: give {FORMATS}") from error
    if not isinstance(held, dict) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise ValueError(f"{path} holds no dictionary of tensors: save it by torch.save({{id: embedding}}, path)")
    return list(map(str, held)), _stacked(path, [v.detach().float().reshape(-1).numpy() for v in held.values()])


def _from_folder(path: Path) -> tuple[list[str], np.ndarray]:
    files = sorted(path.rglob("*.npy"))
    if not files:
        raise ValueError(f"{path} holds no .npy: give {FORMATS}")
    ids = [file.relative_to(path).with_suffix("").as_posix() for file in files]
    return ids, _stacked(path, [np.load(file).reshape(-1) for file in files])


def _stacked(path: Path, vectors: list[np.ndarray]) -> np.ndarray:
    sizes = sorted({len(v) for v in vectors})
    if len(sizes) > 1:
        raise ValueError(f"{path} holds embeddings of the sizes {sizes}: give those of one encoder")
    return np.stack(vectors)


def checked(path: Path, ids: list[str], vectors: np.ndarray) -> Embeddings:
    """Embeddings of `path` without a flaw that `read_embeddings` names."""
    if vectors.ndim != 2 or len(vectors) != len(ids) or not len(ids) or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has {len(ids)} ids and {vectors.dtype} embeddings of shape {vectors.shape}: give one row of "
            "numbers an id"
        )
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        again = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{path} has the id {again} more than once: give one embedding an id")
    rows = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    norm = torch.linalg.vector_norm(rows, dim=1)
    if (bad := ~((norm > 0) & torch.isfinite(norm))).any():
        i = int(bad.nonzero()[0])
        raise ValueError(
            f"the embedding of {ids[i]} in {path} has norm {float(norm[i]):g} ({int(bad.sum())} such): it has no "
            "direction; look at that recording or image"
        )
    return Embeddings(ids, rows)
