"""What a demo keeps of a training: its scores of all pairs of test samples by four methods, and what a step took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..files.anchors import anchors_from_embeddings
from ..files.embeddings import save_npz
from ..files.reading import read_arrays
from ..scoring import methods
from ..scoring.ida import IDAScorer
from ..scoring.regressor import SupportSetRegressor
from ..scoring.score_norm import ScoreNorm
from .progress import Progress

METHODS = {"cosine": "cosine", "s-norm": "s-norm", "ida-r": "IDA-R", "ida-l": "IDA-L"}
HIDDEN, K, TAU = 128, 10, 1.0


class Cost(NamedTuple):
    """What the classifier and the loss take of one training step."""

    seconds: float  # of CPU time, forwards and backwards
    kept: int  # bytes that the forward pass keeps for the backward pass


class Run(NamedTuple):
    """A loss that has been trained and scored."""

    title: str
    scores: dict[str, np.ndarray]  # by method, one for each pair
    step_seconds: float  # of CPU time, in training; nan if the training was over when it was resumed
    cost: Cost


class Trials(NamedTuple):
    """All pairs of test samples.

    Attributes:
        i, j: (P,), the positions of both samples among the `samples`, which are named.
        labels: the identity of each sample, as a position among the `names`.
    """

    i: np.ndarray
    j: np.ndarray
    labels: np.ndarray
    samples: Sequence[str]
    names: Sequence[str]

    @classmethod
    def all_pairs(cls, labels: np.ndarray, samples: Sequence[str], names: Sequence[str]) -> Trials:
        return cls(*np.triu_indices(len(labels), 1), labels, samples, names)

    @property
    def identities(self) -> tuple[np.ndarray, np.ndarray]:
        return self.labels[self.i], self.labels[self.j]

    @property
    def same(self) -> np.ndarray:
        return self.labels[self.i] == self.labels[self.j]

    def pair(self, trial: int) -> str:
        return f"{self.samples[self.i[trial]]}, {self.samples[self.j[trial]]}"


def four_scores(
    prototypes: Tensor, known: Tensor, labels: Tensor, f: Tensor, seed: int, progress: Progress
) -> dict[str, np.ndarray]:
    """The scores of all pairs of the test embeddings f (N, d), by the name of the method.

    The anchors are the prototypes (C, d). The cohort of s-norm is one random training embedding of each class. The
    regressor is fitted to the densities of the training embeddings `known`, of the classes `labels`, each without the
    anchor of its own class.
    """
    k = min(K, len(prototypes) - 1)
    anchors = IDAScorer(prototypes, k, TAU)
    cohort = anchors_from_embeddings(known, labels.tolist(), seed).vectors
    regressor = SupportSetRegressor(known.shape[1], HIDDEN, k, TAU)
    regressor.fit(known, anchors.log_density(known, labels).double().exp(), epochs=50, seed=seed)
    chosen = [
        methods.COSINE,
        methods.score_norm(ScoreNorm(cohort)),
        methods.ida(anchors),
        methods.ida(regressor, "ida-l", "IDA-L"),
    ]
    i, j = np.triu_indices(len(f), 1)
    scores = methods.score_trials(chosen, f, torch.from_numpy(i), torch.from_numpy(j), progress)
    return {name: values.numpy() for name, values in scores.items()}


def step_cost(loss: Callable[[], Tensor], weights: Iterable[Tensor], repeats: int = 20) -> Cost:
    """Measure forward and backward passes of a loss; the time is the median. The weights are not counted as kept."""
    weights = list(weights)
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seconds = []
    for _ in range(repeats):
        kept.clear()
        began = time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss()
        size = sum(kept.values())
        value.backward()
        seconds.append(time.process_time() - began)
    for weight in weights:
        weight.grad = None
    return Cost(statistics.median(seconds), size)


def save_run(path: Path, scores: dict[str, np.ndarray], step_seconds: float, cost: Cost) -> None:
    save_npz(path, **scores, step_seconds=[step_seconds], cost=cost)


def read_run(path: Path, title: str) -> Run:
    """The run whose results are in this file of `save_run`.

    Raises:
        ValueError: the file is damaged, or another version of the demo has written it.
    """
    names = (*METHODS, "step_seconds", "cost")
    saved, _ = read_arrays(path, names)
    if len(saved) < len(names):
        raise ValueError(f"{path} is damaged or of an older version: remove it, and the demo makes it again")
    seconds, kept = map(float, saved["cost"])
    scores = {name: saved[name] for name in METHODS}
    return Run(title, scores, float(saved["step_seconds"][0]), Cost(seconds, int(kept)))
