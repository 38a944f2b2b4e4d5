"""A recognition model of the insightface package as a function from faces to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from verimargin.files.choice import choose
from verimargin.files.embeddings import Embeddings
from verimargin.files.networks import fingerprint

from .image_folder import images_of
from .mxnet_names import imdecode
from .recordio import Record

Face: TypeAlias = Any  # a file, an image as OpenCV reads it (BGR), or insightface's Face


class FaceEncoder:
    """The embedding of a face by a model of the insightface package.

    Args:
        model: what ``insightface.model_zoo.get_model("model.onnx")`` returns for a recognition model, which takes
            aligned faces, 112 x 112; or a prepared ``insightface.app.FaceAnalysis``, which finds the face and aligns
            it. Of several faces in an image the largest counts.

    Attributes:
        fingerprint: of the file of the recognition model, as in files of embeddings and anchors.
        size: d, or None if the file does not declare it.

    Raises:
        ValueError: the model is of another kind or is not prepared; in a call, an image cannot be read, has another
            size than the model takes, or shows no face.
    """

    def __init__(self, model: Any):
        self._finder = model if hasattr(model, "det_model") else None
        if self._finder is None:
            self._model = model
        elif "recognition" not in model.models:
            raise ValueError(
                f"the FaceAnalysis has {', '.join(sorted(model.models))}, but no recognition model: allow it in "
                "allowed_modules"
            )
        elif not hasattr(model, "det_size"):
            raise ValueError("the FaceAnalysis is not prepared: call its prepare() first")
        else:
            self._model = model.models["recognition"]
        if not hasattr(self._model, "get_feat"):
            raise ValueError(
                f"the model is a {type(model).__name__}, which makes no embeddings of faces: give a recognition model, "
                "or a FaceAnalysis that has one"
            )
        self.fingerprint = fingerprint(Path(self._model.model_file))
        declared = self._model.output_shape[-1]
        self.size = declared if isinstance(declared, int) else None

    def __call__(self, face: Face) -> Tensor:
        """The embedding (d,) of a face; of insightface's Face it is the one that it carries."""
        if hasattr(face, "bbox") or hasattr(face, "embedding"):
            return _embedding_of(face, "the Face")
        image, name = (face, "the image") if isinstance(face, np.ndarray) else (_read(face), str(face))
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"{name} is {image.dtype} of shape {image.shape}: give uint8 (height, width, 3), BGR")
        if self._finder is not None:
            found = self._finder.get(image)
            if not found:
                raise ValueError(f"no face is found in {name}: give another image, or a lower det_thresh in prepare()")
            return _embedding_of(max(found, key=_area), name)
        width, height = self._model.input_size
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{name} is {image.shape[1]} x {image.shape[0]}, but a recognition model takes aligned faces of "
                f"{width} x {height}: align it (insightface.utils.face_align.norm_crop), or give a FaceAnalysis"
            )
        return _checked(self._model.get_feat(image), name)

    def folder(
        self,
        folder: str | PathLike,
        per_identity: int = 0,
        seed: int = 0,
        progress: Callable[[Sequence], Iterable] = iter,
    ) -> Embeddings:
        """The embeddings of an image folder with one folder for each identity; its ids are ``identity/file``.

        Args:
            per_identity: how many random images to take of each identity; 0 takes all.
            progress: wraps the list of images, as tqdm does.
        """
        images = images_of(Path(folder))
        chosen = [images[n] for n in choose([path.parent.name for path in images], per_identity, seed)]
        vectors = torch.stack([self(path) for path in progress(chosen)])
        return Embeddings(
            [f"{path.parent.name}/{path.name}" for path in chosen],
            vectors,
            [path.parent.name for path in chosen],
            self.fingerprint,
            {"data": Path(folder).resolve().name, "per_identity": per_identity, "seed": seed},
        )


def _read(path: str | PathLike) -> np.ndarray:
    if not Path(path).is_file():
        raise ValueError(f"the image {path} does not exist: give a file, or an image as OpenCV reads it")
    return np.asarray(imdecode(Record.from_file(Path(path)), to_rgb=False))


def _embedding_of(face: Any, name: str) -> Tensor:
    if face.embedding is None:
        raise ValueError(
            f"{name} has no embedding: let a FaceAnalysis with a recognition model find it (its liveness check gives "
            "none to what it takes for no living face)"
        )
    return _checked(face.embedding, name)


def _checked(embedding: np.ndarray, name: str) -> Tensor:
    row = torch.from_numpy(np.array(embedding, np.float32).reshape(-1))
    if not bool(row.isfinite().all()) or not bool(row.any()):
        raise ValueError(f"the embedding of {name} is nan, infinite or all zero: check the model's file")
    return row


def _area(face: Any) -> float:
    left, top, right, bottom = face.bbox
    return float((right - left) * (bottom - top))
