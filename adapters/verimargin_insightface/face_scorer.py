"""IDA and s-norm for the models of the insightface package: two faces, or a face and a gallery."""

from __future__ import annotations

import logging
import math
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import torch
import verimargin as vm
from torch import Tensor
from torch.nn import functional as F
from verimargin.files.anchors import anchors_from_embeddings
from verimargin.files.calibrations import read_calibrations
from verimargin.files.embeddings import Embeddings, check_encoder, read_embeddings
from verimargin.files.scorers import holds_regressor, read_regressor
from verimargin.scoring import methods
from verimargin.scoring.density_spread import spread_over_all_pairs
from verimargin.scoring.ida import DensityScorer
from verimargin.scoring.methods import Method, Statistics

from .face_encoder import Face, FaceEncoder

logger = logging.getLogger(__name__)

METHODS = ("ida", "s-norm")
ENOUGH = 32  # faces of a gallery to look at the spread of their densities
SAME = 1 - 1e-5  # a cosine above it is of one image with itself


class Match(NamedTuple):
    """An identity of a gallery, with the image of it that scores highest."""

    identity: str
    image: str
    score: float


class Gallery(NamedTuple):
    """The faces that `FaceScorer.search` compares with; made by `FaceScorer.gallery`."""

    images: list[str]
    identities: list[str]
    unit: Tensor  # (N, d)
    statistics: Statistics  # of the scorer's method, computed once


class FaceScorer:
    """Scores of faces by IDA or s-norm, with a model of the insightface package.

    The scores are those of `verimargin score` for the same embeddings: the logarithm of the DAO for IDA. A face is a
    file, an image as OpenCV reads it (BGR), or a Face of insightface that has an embedding. A bare recognition model
    takes aligned faces, 112 x 112.

    Args:
        model: a recognition model of ``insightface.model_zoo.get_model``, or a prepared
            ``insightface.app.FaceAnalysis``.
        anchors: faces of strangers, who are never scored: a folder with a folder of images for each, of which one
            random image is taken; or a file of anchors or `Embeddings` made with the same model. For IDA it may be
            a regressor of `verimargin train-ssr` (IDA-L), with its own k and tau.
        method: "ida", or "s-norm" with the anchors as its cohort.
        k, tau: of `vm.IDAScorer`.
        threshold: pairs with a score above it count as the same person in `same`.

    Attributes: encoder, the `FaceEncoder`; threshold.

    Raises:
        ValueError: the model or the method is of another kind, there are fewer anchors than k, or two for s-norm, or
            they come from another model; when scoring, as for `FaceEncoder`, or a face is one of the anchors.
    """

    def __init__(
        self,
        model: Any,
        anchors: str | PathLike | Embeddings,
        method: str = "ida",
        k: int = 10,
        tau: float = 1.0,
        threshold: float | None = None,
    ):
        if method not in METHODS:
            raise ValueError(f"method is {method!r}: give one of {', '.join(METHODS)}")
        self.encoder, self.threshold = FaceEncoder(model), threshold
        self._strangers: set[str] = set()
        self._anchors: Tensor | None = None
        self._density: DensityScorer | None = None
        self._method: Method
        if not isinstance(anchors, Embeddings) and holds_regressor(fspath(anchors)):
            self._name, self._method = fspath(anchors), self._learned(fspath(anchors), method)
            return
        given, self._name = self._given(anchors)
        check_encoder(self._name, given.encoder, self.encoder.fingerprint)
        least = k if method == "ida" else 2
        if len(given.ids) < least:
            raise ValueError(
                f"{self._name} has {len(given.ids)} anchors, and {method} needs {least}: give faces of more strangers"
            )
        self._strangers, self._anchors = set(given.ids), F.normalize(given.vectors)
        self._check_size(self.encoder.size)
        if method == "ida":
            self._density = vm.IDAScorer(self._anchors, k, tau)
            self._method = methods.ida(self._density)
        else:
            self._method = methods.score_norm(vm.ScoreNorm(self._anchors))

    def embed(self, face: Face) -> Tensor:
        """The unit embedding (d,) of a face."""
        name = fspath(face) if isinstance(face, (str, PathLike)) else "the face"
        return self._unit([self.encoder(face)], [name])[0]

    def gallery(self, faces: str | PathLike | Embeddings) -> Gallery:
        """A folder with a folder of images for each identity, or embeddings with labels, for `search`.

        The log has a warning if IDA's densities rival the cosines, as after too short a training.

        Raises:
            ValueError: an identity is among the anchors too, or as for the scorer.
        """
        given = faces if isinstance(faces, Embeddings) else self.encoder.folder(faces)
        identities = given.labels or given.ids
        if shared := sorted(self._strangers & set(identities)):
            raise ValueError(
                f"the gallery and the anchors of {self._name} share identities ({len(shared)}, such as {shared[0]}): "
                "make the anchors of people who are never scored"
            )
        check_encoder("the gallery", given.encoder, self.encoder.fingerprint)
        unit = self._unit(list(given.vectors), given.ids)
        statistics = self._method.statistics(unit)
        self._watch_spread(unit, statistics)
        return Gallery(given.ids, identities, unit, statistics)

    @torch.no_grad()
    def score(self, first: Face, second: Face) -> float:
        """The score of two faces; higher is more similar."""
        e, t = self.embed(first)[None], self.embed(second)[None]
        return float(self._method.combine(e @ t.T, self._columns(e), self._method.statistics(t)))

    def threshold_for(self, calibration: str | Path, far: float) -> float:
        """The threshold for a false accept rate from a file of `verimargin calibrate`, as one of this scorer's scores.

        Raises:
            ValueError: the file has no such rate, or not this method with these settings, is of another model, or its
                scores depend on a quality measure, which a pair of faces alone does not have.
        """
        known = read_calibrations(calibration)
        check_encoder(calibration, known.encoder, self.encoder.fingerprint)
        method = known.methods.get(self._method.name)
        if method is None or method.title != self._method.title:
            raise ValueError(
                f"{calibration} has {', '.join(m.title for m in known.methods.values())}, but the scorer is "
                f"{self._method.title}: calibrate that method with the same settings"
            )
        if method.calibration.qualities:
            raise ValueError(
                f"{calibration} was fitted with {', '.join(method.calibration.qualities)}: calibrate without qualities"
            )
        for found in method.thresholds:
            if math.isclose(found.far, far):
                return (found.threshold - method.calibration.offset) / method.calibration.scale
        rates = ", ".join(f"{found.far:g}" for found in method.thresholds) or "none"
        raise ValueError(f"{calibration} has thresholds for the false accept rates {rates}, but not for {far:g}")

    def same(self, first: Face, second: Face) -> bool:
        """Whether the score of two faces is above the threshold."""
        if self.threshold is None:
            raise ValueError("there is no threshold: set one, such as that of threshold_for()")
        return self.score(first, second) > self.threshold

    @torch.no_grad()
    def search(self, face: Face, gallery: Gallery, top: int = 10) -> list[Match]:
        """The identities of the gallery by falling score, at most `top`; with a threshold, only those above it."""
        e = self.embed(face)[None]
        scores = self._method.combine(e @ gallery.unit.T, self._columns(e), gallery.statistics)[0]
        best: dict[str, Match] = {}
        for n in scores.argsort(descending=True, stable=True).tolist():
            identity, score = gallery.identities[n], float(scores[n])
            if self.threshold is not None and score <= self.threshold:
                break
            best.setdefault(identity, Match(identity, gallery.images[n], score))
            if len(best) == top:
                break
        return list(best.values())

    def _given(self, anchors: str | PathLike | Embeddings) -> tuple[Embeddings, str]:
        if isinstance(anchors, Embeddings):
            return anchors, "the anchors"
        path = Path(anchors)
        if not path.is_dir() or any(path.glob("*.npy")):
            return read_embeddings(path), str(path)
        taken = self.encoder.folder(path, per_identity=1)
        return anchors_from_embeddings(taken.vectors, taken.labels, encoder=taken.encoder), str(path)

    def _learned(self, path: str, method: str) -> Method:
        if method != "ida":
            raise ValueError(f"{path} is a regressor, which is for IDA: give faces of strangers for {method}")
        file = read_regressor(path)
        file.check_encoder(self.encoder.fingerprint)
        self._density = file.scorer
        return methods.ida(file.scorer, "ida-l", "IDA-L")

    def _unit(self, embeddings: list[Tensor], names: list[str]) -> Tensor:
        """Unit rows (N, d), none of which is an anchor: it would find itself as its nearest neighbour."""
        unit = F.normalize(torch.stack(embeddings))
        if self._anchors is None:
            return unit
        self._check_size(unit.shape[1])
        if (shared := ((unit @ self._anchors.T).amax(1) > SAME).nonzero()).numel():
            raise ValueError(
                f"{names[int(shared[0])]} is one of the anchors of {self._name}: make the anchors of people who are "
                "never scored"
            )
        return unit

    def _watch_spread(self, unit: Tensor, statistics: Statistics) -> None:
        if self._density is None or len(unit) < ENOUGH:
            return
        if warning := spread_over_all_pairs(unit, statistics[0], self._density.tau).warning:
            logger.warning("%s", warning)

    def _check_size(self, size: int | None) -> None:
        if size is not None and self._anchors is not None and size != self._anchors.shape[1]:
            raise ValueError(
                f"the anchors of {self._name} have {self._anchors.shape[1]} numbers, the model's embeddings {size}: "
                "make the anchors with this model"
            )

    def _columns(self, unit: Tensor) -> Statistics:
        """The statistics of probes, to be compared with rows of a gallery."""
        return [statistic[:, None] for statistic in self._method.statistics(unit)]
