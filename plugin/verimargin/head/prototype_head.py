"""The classification head: prototypes, their cosines with the embeddings, and the loss, in one step.

For alpha > 1 only a few classes per sample have a probability above 0, so no (B, C) tensor is needed: the classes
are streamed in chunks, and the head keeps a list of (row, column, logit) candidates that shrinks to the
exact support (mathematics, section 1). For alpha = 1 every class counts, and the head holds all the logits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from .._checks import EPS, check_integer, check_labels, check_norms, check_training_embeddings
from .._sharding import Shard
from ..losses.divergence import reduce_loss
from ..losses.margin_loss import MarginLoss
from .dense import DenseHead
from .gradient_memory import GradientMemory
from .product import largest
from .screening import check_screening, screening_type
from .sparse import SparseHead
from .step import BLOCK, Step


class PrototypeHead(torch.nn.Module):
    """Unit prototypes, one per class, and a `MarginLoss` of their cosines with the embeddings.

    Equivalent to::

        cosine = F.normalize(embeddings) @ F.normalize(weight).T     # (B, C)
        return loss(cosine, labels)

    without the (B, C) tensor when alpha > 1, and with the classes sharded over a process group if there is one.
    Values and gradients are exact: by default nothing is sampled or truncated. Time and memory grow with the number
    of active classes, which is small for an alpha of 1.1 or more; as alpha approaches 1, all classes become active.

    Args:
        embedding_size: d.
        num_classes: C, over all ranks.
        loss: a `MarginLoss`; its margin receives global class ids.
        sample_rate: below 1, each training step uses the classes of the batch and randomly chosen others, which
            together are this share of each shard (Partial FC, arXiv 2203.15565). It is meant for alpha = 1;
            for a larger alpha the exact loss is as fast.
        process_group: the ranks that share the classes, `torch.distributed.group.WORLD` for all ranks; with None,
            this process holds all classes. Every rank calls the head with its own samples and gets the loss over
            the samples of all ranks. The gradient of the embeddings is multiplied by the number of ranks, because
            DistributedDataParallel averages it over them afterwards.
        screening: for alpha > 1, the type in which the classes are screened for those that may have a probability:
            "float16", "bfloat16", "int8", or "auto" for what the device multiplies fastest; "off" for none. The
            result is that of the prototypes' own precision in any case (mathematics, section 5).
        subcenters: K, the prototypes per class. The cosine of a class is the largest of its K (Sub-center ArcFace,
            ECCV 2020), so that mislabelled samples gather around a centre of their own. `prune_subcenters` removes
            them. It takes K times the memory and time of K = 1.

    Shapes: embeddings (B, d), labels (B,) global integer class ids; B may be 0 and may differ between ranks.
    `weight` is (local classes, d), or (local classes, K, d) for K > 1. Its initial values do not depend on the number
    of ranks, provided that all ranks have the same random seed.

    Attributes:
        active_classes: the mean number of classes per sample with a probability above 0 in the last training
            step, a 0-dim tensor; nan for alpha = 1.
        zero_loss: the share of that step's samples whose probability is entirely on their own class, and which
            therefore teach nothing. If it is large, alpha, the scale or the margin needs another value.
        target_cosine: the mean cosine of that step's samples with their own prototypes.

    Raises:
        ValueError: a size is wrong, a label is out of range, the embeddings hold nan, inf or an all-zero row, or the
            device does not multiply the type named by `screening`.
    """

    SHARDED: ClassVar[dict[str, str]] = {"weight": "shard"}

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        loss: MarginLoss,
        sample_rate: float = 1.0,
        process_group: dist.ProcessGroup | None = None,
        screening: str = "auto",
        subcenters: int = 1,
    ):
        super().__init__()
        if not isinstance(loss, MarginLoss):
            raise ValueError(f"loss is {loss!r}: give a MarginLoss, such as q_margin(1.25, 32, 0.2)")
        self.embedding_size = check_integer("embedding_size", embedding_size, 1)
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.subcenters = check_integer("subcenters", subcenters, 1)
        if not 0.0 < sample_rate <= 1.0:
            what = "; the number of prototypes per class is `subcenters`" if sample_rate > 1.0 else ""
            raise ValueError(f"sample_rate is {sample_rate}: give a number in (0, 1]{what}")
        psi = loss.margin.psi
        if psi is not None and len(psi) != self.num_classes:
            raise ValueError(
                f"the loss has psi for {len(psi)} classes, the head has {self.num_classes}: make them agree"
            )
        self.loss, self.sample_rate, self.screening = loss, sample_rate, check_screening(screening)
        self.shard = Shard(self.num_classes, process_group)
        self.shard.check_agreement(
            num_classes=self.num_classes,
            embedding_size=self.embedding_size,
            sample_rate=sample_rate,
            alpha=loss.alpha,
            scale=loss.scale,
            margin=loss.margin.m,
            subcenters=self.subcenters,
            **_quality_settings(loss),
        )
        weight = _initial_prototypes(self.shard, self.subcenters * self.embedding_size)
        self.weight = torch.nn.Parameter(weight if self.subcenters == 1 else weight.unflatten(1, (self.subcenters, -1)))
        self._gradient_memory = GradientMemory()
        self.active_classes = self.zero_loss = self.target_cosine = torch.tensor(math.nan)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        unit, norms, labels = self._checked(embeddings, labels)
        quality = self.loss.margin.quality
        if quality is None:
            unit, labels = self.shard.gather_batch(unit, labels)
        else:
            unit, labels, norms = self.shard.gather_batch(unit, labels, norms)
            if self.training:
                quality.update(norms, gathered=self.shard.group is not None)
        column = labels - self.shard.start
        column = torch.where((column >= 0) & (column < self.shard.size), column, -1)
        weight: Tensor = self.weight
        if self.training and self.sample_rate < 1.0:
            weight, column = self._sample(column)
        if self.subcenters > 1:
            weight = weight.flatten(0, 1)
        step = Step(
            labels, column, self.loss, self.shard, self._gradient_memory, subcenters=self.subcenters, norms=norms
        )
        if self.loss.alpha == 1.0:
            loss, statistics = DenseHead.apply(unit, weight, step)
        else:
            step = replace(step, screening=screening_type(self.screening, unit, self.loss.scale))
            loss, statistics = _sparse_head(unit, weight, step).apply(unit, weight, step)
        if self.training:
            self.active_classes, self.zero_loss, self.target_cosine = statistics
        return reduce_loss(loss, self.loss.reduction)

    def cosine(self, embeddings: Tensor) -> Tensor:
        """The cosines (B, local classes) with this rank's prototypes, for evaluation or for another loss."""
        prototypes = F.normalize(self.weight.view(-1, self.embedding_size), eps=EPS)
        return largest(F.linear(F.normalize(embeddings, eps=EPS), prototypes), self.subcenters)

    def extra_repr(self) -> str:
        sizes = f"embedding_size={self.embedding_size}, num_classes={self.num_classes}, subcenters={self.subcenters}"
        return f"{sizes}, ranks={self.shard.ranks}"

    def _checked(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The unit embeddings, the norms, without a gradient, and the labels."""
        embeddings = check_training_embeddings(embeddings, self.embedding_size, self.weight, "head")
        labels = check_labels(labels, len(embeddings), self.num_classes, embeddings.device)
        norm = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
        check_norms(norm.squeeze(1))
        return embeddings / norm.clamp_min(EPS), norm.detach().squeeze(1), labels

    def _sample(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """The prototypes that take part in this step, and the column of each target among them."""
        order = torch.rand(self.shard.size, device=column.device)
        order[column[column >= 0]] = 2.0
        wanted = max(int(self.sample_rate * self.shard.size), int((order == 2.0).sum()), 1)
        index = order.topk(wanted).indices.sort().values
        column = torch.where(column >= 0, torch.searchsorted(index, column), -1)
        return self.weight[index], column


def _quality_settings(loss: MarginLoss) -> dict[str, float]:
    """All 0 without a quality, so that ranks with one and ranks without are told apart."""
    quality = loss.margin.quality
    names = ("weight", "h", "momentum")
    return {f"the quality's {name}": 0.0 if quality is None else getattr(quality, name) for name in names}


def _sparse_head(unit: Tensor, weight: Tensor, step: Step) -> type[torch.autograd.Function]:
    """The computation of a step for alpha > 1: in fused kernels where they run."""
    if unit.device.type == "cuda" and step.screening == torch.float16:
        from .kernels.fused import FusedHead, applies  # here, because it imports Triton

        if applies(unit, weight, step):
            return FusedHead
    return SparseHead


def _initial_prototypes(shard: Shard, embedding_size: int) -> Tensor:
    """Normal values with standard deviation 0.01. Each block of classes has its own random generator, so that a rank
    draws the numbers of its own classes only.
    """
    seed = int(torch.randint(2**62, ()))
    blocks = []
    for block in range(shard.start // BLOCK, -(-(shard.start + shard.size) // BLOCK)):
        generator = torch.Generator().manual_seed(seed + block)
        rows = torch.empty(BLOCK, embedding_size).normal_(0.0, 0.01, generator=generator)
        blocks.append(rows[max(shard.start - block * BLOCK, 0) : shard.start + shard.size - block * BLOCK])
    return torch.cat(blocks)
