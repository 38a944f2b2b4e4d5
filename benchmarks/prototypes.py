"""Prototypes, embeddings and labels for the benchmarks of the head, with a known share of active classes.

Everything is for Q-Margin with alpha 1.25, scale 32 and margin 0.2, the published setting for faces.
"""

from __future__ import annotations

import math

import torch
import verimargin as vm
from torch import Tensor
from torch.nn import functional as F

ALPHA, SCALE, MARGIN = 1.25, 32.0, 0.2
PUBLISHED_SHARE = 0.0005  # of the classes are active for a sample: about 1,020 of 2 million (arXiv 2606.31664)
SMALL_CLUSTER = 11  # classes, including the target's own
SHARE_OF_CLUSTER = 0.25  # of the classes of a cluster are active in "as trained": the threshold lies inside it
NOISE = 0.8  # in the embeddings, relative to the prototype of their class
SAMPLES = 64  # by which the closeness of the classes is found
BLOCK = 2**14  # classes that are drawn at a time, to avoid further (C, d) tensors

KINDS = ("small clusters", "as trained", "fresh")


def q_margin(reduction: str = "mean") -> vm.MarginLoss:
    return vm.MarginLoss(vm.QMargin(MARGIN), ALPHA, scale=SCALE, reduction=reduction)


def data(kind: str, classes: int, batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes (classes, size) of various norms, embeddings (batch, size) and labels (batch,).

    - "small clusters": each class is confusable with ten others, all of which are active.
    - "as trained": the published share of the classes is active, a quarter of the target's cluster.
    - "fresh": prototypes and embeddings as they are before the training.

    In fewer than about 100 dimensions, classes of other clusters become active too.
    """
    torch.manual_seed(0)
    labels = torch.randint(classes, (batch,))
    if kind == "fresh":
        return torch.empty(classes, size).normal_(0.0, 0.01), torch.randn(batch, size), labels
    if kind == "small clusters":
        members, closeness = SMALL_CLUSTER, 0.5
    else:
        members = max(round(classes * PUBLISHED_SHARE / SHARE_OF_CLUSTER), 1)
        closeness = closeness_for(classes * PUBLISHED_SHARE, members, size)
    centre = F.normalize(torch.randn(-(-classes // members), size))
    cluster = torch.randperm(classes) % len(centre)  # the classes of a cluster are spread over the class ids
    weight = torch.empty(classes, size)
    for part, index in zip(weight.split(BLOCK), cluster.split(BLOCK)):
        part.copy_(around(centre[index], torch.randn_like(part), closeness))
    embeddings = noisy(weight[labels], torch.randn(batch, size))
    for part in weight.split(BLOCK):
        part.mul_(0.5 + torch.rand(len(part), 1))
    return weight, 20.0 * embeddings, labels


def around(centre: Tensor, direction: Tensor, closeness: float) -> Tensor:
    """Unit prototypes (n, d) whose mean cosine with each other is `closeness` if they have the same centre."""
    return F.normalize(math.sqrt(closeness) * centre + math.sqrt((1.0 - closeness) / centre.shape[-1]) * direction)


def noisy(prototype: Tensor, direction: Tensor) -> Tensor:
    """Unit embeddings (n, d) of these classes."""
    return F.normalize(prototype + NOISE * F.normalize(direction))


def closeness_for(wanted: float, members: int, size: int) -> float:
    """The mean cosine of two classes of a cluster with which `wanted` classes are active for a sample, by bisection."""
    centre, direction = F.normalize(torch.randn(1, size)), torch.randn(members, size)
    label, noise = torch.arange(SAMPLES) % members, torch.randn(SAMPLES, size)
    low, high = 0.0, 1.0
    for _ in range(16):
        closeness = 0.5 * (low + high)
        prototypes = around(centre, direction, closeness)
        active = mean_active(noisy(prototypes[label], noise) @ prototypes.T, label)
        low, high = (closeness, high) if active < wanted else (low, closeness)
    return low


def mean_active(cosine: Tensor, label: Tensor) -> float:
    """The mean number of classes per sample with a probability above 0, from the cosines (B, C)."""
    log_q = torch.zeros_like(cosine).scatter_(1, label[:, None], -SCALE * MARGIN)
    p, _ = vm.alpha_softargmax(SCALE * cosine, ALPHA, log_q)
    return float((p > 0).sum(1).float().mean())
