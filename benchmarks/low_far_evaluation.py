"""What a network of `low_far.py` reaches on identities that it has not seen, by cosine and by IDA-R."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import verimargin as vm
from identities import DEVELOPMENT, FAMILY, TEST, TrainingSet, inputs
from impostors import Scores, scores, tar_at_far
from low_far_training import Run
from torch import Tensor
from torch.nn import functional as F
from verimargin.metrics.speakers import DIVISIONS, GROUPS

PROBES = 5  # for each identity, besides the enrolled sample
DEVELOPMENT_IDENTITIES, TEST_IDENTITIES = 4_000, 10_000  # whole families, at least ten
CHOSEN_BY = 1e-4  # the FAR at which a setting is chosen
FARS = (1e-4, 1e-5, 1e-6)
CURVE = tuple(float(f"{far:.3g}") for far in np.logspace(-7, -4, 13))
EER_IDENTITIES = 500  # all of whose pairs give the EER
ANCHORS = 20_000  # of IDA: the first classes
SAMPLES_OF_MEAN = 4  # at most, of each of these classes
ROWS = 2048  # samples that are embedded at a time

Figures = dict[str, Any]


def evaluate(run: Run, identities: int, test: bool) -> dict[str, Any]:
    """The development figure, and those of the test identities by each score if they are wanted."""
    network = run.network.eval()
    found: dict[str, Any] = {"development": development_figure(network, min(identities, DEVELOPMENT_IDENTITIES))}
    if not test:
        return found
    enrolled, probes = embeddings_of(network, TEST, identities)
    found["test"] = {"cosine": figures(enrolled, probes)}
    for name, anchors in (
        ("IDA-R, prototypes", run.head.weight.detach()[:ANCHORS]),
        ("IDA-R, training means", training_means(network, run.data)),
    ):
        density = vm.IDAScorer(anchors).log_density
        found["test"][name] = figures(enrolled, probes, (density(enrolled), density(probes)))
    return found


def development_figure(network: torch.nn.Module, identities: int) -> float:
    """The TAR by which settings are chosen."""
    return tar_at_far(scores(*embeddings_of(network, DEVELOPMENT, identities)).curve(), CHOSEN_BY)


def figures(enrolled: Tensor, probes: Tensor, log_density: tuple[Tensor, Tensor] | None = None) -> Figures:
    """Each figure with its values without each group of families, (DIVISIONS, GROUPS), and the curve TAR by FAR."""
    low = scores(enrolled, probes, log_density=log_density)
    first = slice(min(EER_IDENTITIES, len(enrolled)))
    if log_density is not None:
        log_density = log_density[0][first], log_density[1][:, first]
    whole = scores(enrolled[first], probes[:, first], PROBES * EER_IDENTITIES**2, log_density)
    found = {"EER": left_out(whole, lambda s, kept: s.curve(kept).eer()[0])}
    for far in FARS:
        found[f"TAR at {far:.0e}"] = left_out(low, partial(tar, far=far))
    curve = low.curve()
    return {**found, "curve": [tar_at_far(curve, far) for far in CURVE], "impostor pairs": low.pairs}


def tar(found: Scores, kept: np.ndarray | None, far: float) -> float:
    return tar_at_far(found.curve(kept), far)


def left_out(
    found: Scores, figure: Callable[[Scores, np.ndarray | None], float], together: int = FAMILY
) -> dict[str, Any]:
    """A figure of all identities and, for the jackknife, of those that remain without each group.

    The identities of a family, `together` of them, are in one group: they are not independent of each other.
    """
    family, random = np.arange(len(found.genuine)) // together, np.random.default_rng(0)
    groups = [random.permutation(family[-1] + 1)[family] % GROUPS for _ in range(DIVISIONS)]
    without = [[figure(found, division != group) for group in range(GROUPS)] for division in groups]
    return {"value": figure(found, None), "without": without}


def embeddings_of(network: torch.nn.Module, first: int, identities: int) -> tuple[Tensor, Tensor]:
    """Unit embeddings of one enrolled sample (N, d), and of the probes (PROBES, N, d), of each identity."""
    identity = np.arange(first, first + identities)
    samples = [embed(network, partial(numbered, identity, k), identities) for k in range(1 + PROBES)]
    return samples[0], torch.stack(samples[1:])


def numbered(identity: np.ndarray, number: int, index: np.ndarray) -> Tensor:
    return inputs(identity[index], np.full_like(index, number))


def training_means(network: torch.nn.Module, data: TrainingSet) -> Tensor:
    """The mean of a few embeddings of each of the first classes, (anchors, d)."""
    index = np.flatnonzero((data.label < ANCHORS) & (data.number < SAMPLES_OF_MEAN))
    label = torch.from_numpy(data.label[index])
    unit = embed(network, lambda rows: data.inputs(index[rows]), len(index))
    return unit.new_zeros(int(label[-1]) + 1, unit.shape[1]).index_add_(0, label, unit)


@torch.no_grad()
def embed(network: torch.nn.Module, draw: Callable[[np.ndarray], Tensor], number: int) -> Tensor:
    """Unit embeddings of samples that are drawn in blocks of their positions, (number, d)."""
    blocks = np.array_split(np.arange(number), -(-number // ROWS))
    return torch.cat([F.normalize(network(draw(block))) for block in blocks])
