"""Sub-centres: from K prototypes per class to the dominant one, and the samples that belong to none of the class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import EPS, check_labels, check_norms, check_tensor

LARGEST_ANGLE = 75.0  # degrees, as in the paper
BLOCK = 2**14  # samples whose prototypes are gathered at a time


@dataclass(frozen=True)
class PrunedSubcenters:
    """What `prune_subcenters` returns.

    Attributes:
        weight: (C, d), the dominant prototype of each class.
        kept: (N,), whether a sample is at most `largest_angle` away from it.
        angle: (N,), how far away it is, in degrees.
        nearest: (N,), the sub-centre of its class that is nearest to a sample.
        dominant: (C,), the sub-centre that is nearest to most samples of the class; the first one of a class that has
            no samples.
    """

    weight: Tensor
    kept: Tensor
    angle: Tensor
    nearest: Tensor
    dominant: Tensor


@torch.no_grad()
def prune_subcenters(
    weight: Tensor, embeddings: Tensor, labels: Tensor, largest_angle: float = LARGEST_ANGLE
) -> PrunedSubcenters:
    """Keep the dominant sub-centre of each class, and find the samples that are far from it.

    Sub-centres gather what does not fit the rest of a class: mislabelled samples, and samples of very low quality.
    Training goes on, or starts anew, with the prototypes that are kept, K = 1, and the samples that are kept.

    Equivalent to::

        cosine = torch.einsum("nd,nkd->nk", F.normalize(embeddings), F.normalize(weight[labels], dim=2))
        nearest = cosine.argmax(1)
        dominant = F.one_hot(labels * K + nearest, C * K).sum(0).view(C, K).argmax(1)
        angle = cosine[arange(N), dominant[labels]].acos().rad2deg()
        kept = angle <= largest_angle

    Args:
        weight: (C, K, d), of a `PrototypeHead` with all of its classes.
        embeddings: (N, d) of any norm, of the training set.
        labels: (N,) integers, the classes of the samples.
        largest_angle: in degrees.

    Raises:
        ValueError: the weight has one prototype per class, the shapes or labels do not fit, the weight is not
            finite, or an embedding is all zero or not finite.

    Source: Sub-center ArcFace, ECCV 2020, section 3.4.

    >>> weight = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # one class
    >>> prune_subcenters(weight, torch.tensor([[2.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), torch.zeros(3).long()).kept
    tensor([ True,  True, False])
    """
    for name, value in (("weights", weight), ("embeddings", embeddings)):
        check_tensor(name, value)
    if weight.dim() != 3 or weight.shape[1] < 2:
        raise ValueError(
            f"the weight has the shape {tuple(weight.shape)}: give that of a head with sub-centres, (classes, K, d)"
        )
    classes, k, size = weight.shape
    if embeddings.dim() != 2 or embeddings.shape[1] != size:
        raise ValueError(f"the embeddings have the shape {tuple(embeddings.shape)}: give (samples, {size})")
    if not 0.0 < largest_angle <= 180.0:
        raise ValueError(f"largest_angle is {largest_angle}: give degrees in (0, 180]")
    labels = check_labels(labels, len(embeddings), classes, embeddings.device)
    check_norms(torch.linalg.vector_norm(embeddings.float(), dim=1))
    unit, own = F.normalize(embeddings.float(), eps=EPS), F.normalize(weight.float(), dim=2, eps=EPS)
    if not bool(torch.isfinite(own).all()):
        raise ValueError("the weight holds nan or infinity: training has diverged; give an earlier checkpoint")
    parts = [(e[:, None] * own[y]).sum(2) for e, y in zip(unit.split(BLOCK), labels.split(BLOCK))]
    cosine = torch.cat(parts) if parts else unit.new_empty(0, k)
    nearest = cosine.argmax(1)
    dominant = torch.bincount(labels * k + nearest, minlength=classes * k).view(classes, k).argmax(1)
    to_dominant = cosine.gather(1, dominant[labels][:, None]).squeeze(1).clamp(-1.0, 1.0)
    angle = to_dominant.acos().rad2deg()
    kept = to_dominant >= math.cos(math.radians(largest_angle))
    rows = weight[torch.arange(classes, device=weight.device), dominant]
    return PrunedSubcenters(rows, kept, angle, nearest, dominant)
