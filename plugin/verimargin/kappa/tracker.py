"""KappaFace's tracker: a margin for each class from its concentration and its size (mathematics, section 3)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._checks import (
    EPS,
    check_integer,
    check_labels,
    check_norms,
    check_share,
    check_training_embeddings,
    directions,
)
from .._sharding import Shard
from .estimators import EpochSums, SampleMemory

logger = logging.getLogger(__name__)

LARGEST_R = 0.999  # limits kappa to about 500 d; above it, float32 sums have no correct digit of 1 - r^2
SMALLEST_SPREAD = 1e-4  # relative to the mean kappa: a smaller std is rounding error and must not be amplified
ESTIMATORS = ("momentum", "memory")
MEMORY_DEFAULTS = {"num_samples": None, "memory_momentum": 0.3, "memory_dtype": torch.float32, "memory_device": None}
ESTIMATOR_STATE = (*EpochSums.SHARDED, *SampleMemory.SHARDED)


def concentration(r: Tensor, embedding_size: int) -> Tensor:
    """kappa = r (d - r^2) / (1 - r^2) from mean resultant lengths r, which are clamped to [0, 0.999].

    This approximates the concentration of a von Mises-Fisher distribution (Banerjee et al., JMLR 6, 2005). Both the
    approximation and the exact value lie between r (d - 2) / (1 - r^2) and r d / (1 - r^2) (Tanabe et al. 2007, cited
    by Sra 2012).
    """
    r = r.clamp(0.0, LARGEST_R)
    return r * (embedding_size - r**2) / (1.0 - r**2)


def population_weight(class_counts: Tensor) -> Tensor:
    """w^s = (cos(pi n / max n) + 1) / 2: near 1 for the smallest classes, 0 for the largest."""
    n = class_counts.double()
    return (torch.cos(math.pi * n / n.max()) + 1.0) / 2.0


def concentration_weight(kappa: Tensor, known: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """w^k = 1 - sigmoid(T (kappa - mean) / std), and kappa.

    Mean and std are those of the `known` classes. Each other class gets the mean as its kappa, and therefore
    w^k = 1/2. If no class is known, kappa is 0 and w^k is 1/2 for all classes.
    """
    if not bool(known.any()):
        return torch.full_like(kappa, 0.5), torch.zeros_like(kappa)
    mean, std = kappa[known].mean(), kappa[known].std(correction=0)
    kappa = torch.where(known, kappa, mean)
    spread = torch.maximum(std, SMALLEST_SPREAD * mean).clamp_min(EPS)
    return 1.0 - torch.sigmoid(temperature * (kappa - mean) / spread), kappa


class KappaTracker(torch.nn.Module):
    """KappaFace: a margin factor psi for each class, from its concentration and its size.

    The formulas are those of the paper; the code released with it differs from them::

        r = |sum z| / n                  kappa = r (d - r^2) / (1 - r^2)     # n: how many vectors were summed
        w_k = 1 - sigmoid(T (kappa - mean) / std)                            # population mean and std over classes
        w_s = (cos(pi class_counts / max(class_counts)) + 1) / 2
        psi = (1 - gamma) w_s + gamma w_k

    Call `update` at each training step and `end_epoch` at the end of each epoch, which writes `psi` in place::

        tracker = KappaTracker(torch.bincount(train_labels), 512).to(device)
        loss = MarginLoss(ArcMargin(0.8, psi=tracker.psi), scale=64.0)       # or QMargin; after .to(), which copies psi

    psi is 1 until the first epoch ends and during `warmup_epochs`. After that it is about 1/2 on average, which is why
    m is as large as 0.8. A class with fewer than two summed vectors has no concentration: it is left out of mean and
    std, and gets kappa = mean and w_k = 1/2. If all kappas are equal, w_k = 1/2; if all classes have the same size,
    w_s = 0. r is clamped to 0.999.

    Args:
        class_counts: (C,) the number of training samples of each class, integers >= 1.
        embedding_size: d.
        estimator: "momentum" sums the embeddings that it is given during an epoch (`EpochSums`); give it those of a
            `MomentumEncoder`. "memory" keeps one vector per training sample (`SampleMemory`).
        temperature: T, in (0, 1).
        gamma: in [0, 1]; with 0 only the sizes count, with 1 only the concentrations.
        warmup_epochs: the number of epochs in which psi stays 1; in the first epoch it always does.
        process_group: the ranks that share the work, as in `PrototypeHead`. Each rank calls `update` with its own
            samples, and `end_epoch`. It holds the sums of its own classes, or the vectors of its own sample ids, and
            gets psi and kappa of all classes. Keep the tracker outside DistributedDataParallel, which copies rank 0's
            buffers to the other ranks.
        num_samples, memory_momentum, memory_dtype, memory_device: as in `SampleMemory`, for "memory" only, which
            needs num_samples.

    Attributes:
        psi: (C,), the margin factors.
        kappa: (C,); 0 until the first epoch ends.
        epoch: (), the number of epochs that have ended.
        class_counts: (C,); a state dict with other counts is refused.
        estimator: a module with the sums or the memory.
        skipped: (), the number of this rank's samples that were left out in this epoch because their embeddings were
            nan, inf or all zero. This happens on an accelerator only, where raising an error would stall the step; on
            the CPU such embeddings are refused.

    All of them are in the state dict and keep their shape.

    Raises:
        ValueError: an argument or a shape is wrong, or a label or sample id is out of range; on the CPU also if an
            embedding is nan, inf or all zero, or if a sample id comes with two classes.

    Source: KappaFace, IEEE Access 2023, 10.1109/ACCESS.2023.3338648.

    >>> tracker = KappaTracker([2, 4], 2)
    >>> tracker.update(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1, 1]))
    >>> tracker.end_epoch()
    >>> tracker.kappa, tracker.psi  # the first class is more concentrated, and smaller
    (tensor([10.4355,  2.1213]), tensor([0.4309, 0.4191]))
    """

    psi: Tensor
    kappa: Tensor
    epoch: Tensor
    class_counts: Tensor
    skipped: Tensor

    def __init__(
        self,
        class_counts: Tensor | Sequence[int],
        embedding_size: int,
        *,
        estimator: str = "momentum",
        num_samples: int | None = None,
        memory_momentum: float = 0.3,
        temperature: float = 0.4,
        gamma: float = 0.7,
        warmup_epochs: int = 0,
        process_group: dist.ProcessGroup | None = None,
        memory_dtype: torch.dtype = torch.float32,
        memory_device: str | None = None,
    ):
        super().__init__()
        class_counts = _checked_counts(class_counts)
        self.embedding_size = check_integer("embedding_size", embedding_size, 1)
        self.warmup_epochs = check_integer("warmup_epochs", warmup_epochs, 0)
        self.temperature = check_share("temperature", temperature, "(0, 1)")
        self.gamma = check_share("gamma", gamma, "[0, 1]")
        self.classes = Shard(len(class_counts), process_group)
        self.classes.check_agreement(
            classes=len(class_counts),
            samples=int(class_counts.sum()),
            embedding_size=self.embedding_size,
            memory=float(estimator == "memory"),
            temperature=self.temperature,
            gamma=self.gamma,
            warmup_epochs=self.warmup_epochs,
        )
        self.register_buffer("psi", torch.ones(len(class_counts)))
        self.register_buffer("kappa", torch.zeros(len(class_counts)))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("class_counts", class_counts)
        self.register_buffer("skipped", torch.tensor(0))
        self.estimator = _estimator(
            estimator,
            self.classes,
            class_counts,
            self.embedding_size,
            num_samples=num_samples,
            memory_momentum=memory_momentum,
            memory_dtype=memory_dtype,
            memory_device=memory_device,
        )

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor, sample_ids: Tensor | None = None) -> None:
        """Add embeddings (B, d) of any norm with global class ids (B,) and, for "memory", sample ids (B,).

        Does nothing in evaluation mode. On an accelerator nothing is read back unless there are several ranks.
        """
        if not self.training:
            return
        unit, index = self._checked(embeddings, labels, sample_ids)
        unit, index = self.classes.gather_batch(unit, index)
        self.estimator.update(unit, *index.unbind(1))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Recompute kappa and psi in place, and begin the next epoch.

        Raises:
            RuntimeError: psi is to be computed, but no embedding was given.
        """
        if self.skipped:
            logger.warning("%d embeddings were nan, inf or all zero, and were left out", int(self.skipped))
        length, n = self.estimator.lengths(like=self.psi)
        length, n = length.cpu().double(), n.cpu()
        due = int(self.epoch) + 1 >= self.warmup_epochs
        if due and not bool(n.any()):
            raise RuntimeError("no embedding was given since the last epoch ended: call update() at each training step")
        kappa = concentration(length / n.clamp_min(1), self.embedding_size)
        w_k, kappa = concentration_weight(kappa, n >= 2, self.temperature)
        if len(kappa) > 1 and bool((kappa == kappa[0]).all()):
            logger.warning(
                "each class has the kappa %g, so only the class sizes determine the margins: the embeddings hardly "
                "differ. In a short training, a momentum encoder needs a smaller momentum",
                float(kappa[0]),
            )
        self.kappa.copy_(kappa)
        if due:
            w_s = population_weight(self.class_counts.cpu())
            self.psi.copy_((1.0 - self.gamma) * w_s + self.gamma * w_k)
        self.epoch += 1
        self.skipped.zero_()
        self.estimator.begin_epoch()

    def extra_repr(self) -> str:
        return (
            f"classes={len(self.psi)}, embedding_size={self.embedding_size}, temperature={self.temperature:g}, "
            f"gamma={self.gamma:g}, warmup_epochs={self.warmup_epochs}"
        )

    def _checked(self, embeddings: Tensor, labels: Tensor, sample_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Unit embeddings, with zeros for one without a direction, and the class ids and sample ids, (B, 1 or 2)."""
        embeddings = check_training_embeddings(embeddings, self.embedding_size, self.psi, "tracker")
        size, device = len(embeddings), embeddings.device
        index = [check_labels(labels, size, len(self.psi), device)]
        index += self.estimator.check_ids(sample_ids, size, device)
        norm = torch.linalg.vector_norm(embeddings, dim=1)
        check_norms(norm)
        usable = torch.isfinite(norm) & (norm > 0)
        self.skipped += (~usable).sum()
        unit = torch.where(usable[:, None], directions(embeddings, norm), 0.0)
        return unit, torch.stack(index, 1)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, unexpected: list, errors: list
    ) -> None:
        saved = state_dict.get(prefix + "class_counts")
        if saved is not None and not torch.equal(saved.cpu(), self.class_counts.cpu()):
            errors.append(
                f"the saved class counts ({len(saved)} classes, {int(saved.sum())} samples) differ from the tracker's "
                f"({len(self.class_counts)} classes, {int(self.class_counts.sum())} samples): the training set or the "
                "order of its classes has changed; resume with the same data, or start afresh"
            )
            ours = self.estimator.state_dict(prefix=prefix + "estimator.")
            state_dict.update(ours)  # the estimator is loaded next: from its own state, not from the refused one
            return
        for key in [prefix + name for name in ESTIMATOR_STATE if prefix + name in state_dict]:
            state_dict[current_key(key)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


def current_key(key: str) -> str:
    """The present key for the `key` of an older checkpoint, in which the estimator was not yet a separate module."""
    owner, dot, name = key.rpartition(".")
    return f"{owner}{dot}estimator.{name}" if name in ESTIMATOR_STATE and not owner.endswith("estimator") else key


def _estimator(
    kind: str, classes: Shard, class_counts: Tensor, embedding_size: int, *, num_samples: int | None, **memory: Any
) -> EpochSums | SampleMemory:
    if kind not in ESTIMATORS:
        raise ValueError(f'estimator is {kind!r}: give "momentum" or "memory"')
    if kind == "momentum":
        given = {"num_samples": num_samples, **memory}
        if changed := [name for name, value in given.items() if value != MEMORY_DEFAULTS[name]]:
            raise ValueError(
                f'estimator "momentum" does not take {", ".join(changed)}: leave that out, or choose estimator "memory"'
            )
        return EpochSums(classes, embedding_size, int(class_counts.max()))
    if num_samples is None:
        raise ValueError('num_samples is missing: estimator "memory" keeps one vector per training sample')
    num_samples, total = check_integer("num_samples", num_samples, 1), int(class_counts.sum())
    if num_samples < total:
        raise ValueError(
            f"num_samples is {num_samples}, but class_counts add up to {total}: take both from one data set"
        )
    return SampleMemory(classes, embedding_size, num_samples, **memory)


def _checked_counts(class_counts: Tensor | Sequence[int]) -> Tensor:
    counts = torch.as_tensor(class_counts).cpu()
    if counts.dim() != 1 or len(counts) == 0 or counts.is_floating_point():
        raise ValueError(
            f"class_counts are {counts.dtype} of shape {tuple(counts.shape)}: give one integer per class, (C,), "
            "such as torch.bincount(labels)"
        )
    if bool((counts < 1).any()):
        c = int((counts < 1).nonzero()[0])
        raise ValueError(
            f"class {c} has {int(counts[c])} samples: give each class at least one, or number the classes without it"
        )
    return counts.long().clone()
