"""Scores all pairs of test faces by the cosine, s-norm, IDA-R and IDA-L, from what a training has left."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import verimargin as vm
from verimargin.files.anchors import anchors_from_embeddings
from verimargin.scoring import methods

from .corpus import Faces
from .training import Run, embed

HIDDEN, K, TAU = 128, 10, 1.0


def score(
    run: Run, test: Faces, i: np.ndarray, j: np.ndarray, progress: Callable[..., Iterable]
) -> dict[str, np.ndarray]:
    """The scores (P,) of the test images i with the test images j, by the name of the method.

    The anchors are the prototypes, the cohort of s-norm is one random training image of each person, and the regressor
    is fitted to the densities of all training images, each without the anchor of its own person.
    """
    known, f = (embed(run.backbone, faces.images) for faces in (run.faces, test))
    anchors = vm.IDAScorer(run.head.weight.detach(), K, TAU)
    labels = torch.from_numpy(run.faces.labels)
    cohort = anchors_from_embeddings(known, run.faces.labels.tolist(), run.seed).vectors
    regressor = vm.SupportSetRegressor(known.shape[1], HIDDEN, K, TAU)
    regressor.fit(known, anchors.log_density(known, labels).double().exp(), epochs=50, seed=run.seed)
    chosen = [
        methods.COSINE,
        methods.score_norm(vm.ScoreNorm(cohort)),
        methods.ida(anchors),
        methods.ida(regressor, "ida-l", "IDA-L"),
    ]
    scores = methods.score_trials(chosen, f, torch.from_numpy(i), torch.from_numpy(j), progress)
    return {name: values.numpy() for name, values in scores.items()}
