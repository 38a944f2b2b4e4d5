"""KappaFace's tracking: each class's concentration, and its margin from that and its size (mathematics, section 3)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._checks import EPS, check_integer, check_labels, check_norms, check_share, check_training_embeddings
from .._sharding import Shard
from .estimators import EpochSums, SampleMemory

logger = logging.getLogger(__name__)

LARGEST_R = 0.999  # kappa is at most some 500 d: beyond, float32 sums carry no digits of 1 - r^2
SMALLEST_SPREAD = 1e-4  # of the mean kappa: a smaller std is rounding, and is not to be blown up
ESTIMATORS = ("momentum", "memory")
MEMORY_ARGUMENTS = ("num_samples", "memory_momentum", "memory_dtype", "memory_device")
ESTIMATOR_STATE = ("sums", "counts", "memory", "memory_class")


def concentration(r: Tensor, embedding_size: int) -> Tensor:
    """kappa = r (d - r^2) / (1 - r^2) of mean resultant lengths r, clamped to 0 .. 0.999.

    The approximation by Banerjee et al., JMLR 6 (2005), of a von Mises-Fisher distribution's concentration. It and
    the exact value lie between r (d - 2) / (1 - r^2) and r d / (1 - r^2): Tanabe et al. (2007), cited by Sra (2012).
    """
    r = r.clamp(0.0, LARGEST_R)
    return r * (embedding_size - r**2) / (1.0 - r**2)


def population_weight(class_counts: Tensor) -> Tensor:
    """w^s = (cos(pi n / max n) + 1) / 2: near 1 for the smallest classes, 0 for the largest."""
    n = class_counts.double()
    return (torch.cos(math.pi * n / n.max()) + 1.0) / 2.0


def concentration_weight(kappa: Tensor, known: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """w^k = 1 - sigmoid(T (kappa - mean) / std), and kappa, over the `known` classes; the others at their mean.

    At the mean w^k = 1/2. If no class is known, kappa is 0 and w^k is 1/2 for all.
    """
    if not bool(known.any()):
        return torch.full_like(kappa, 0.5), torch.zeros_like(kappa)
    mean, std = kappa[known].mean(), kappa[known].std(correction=0)
    kappa = torch.where(known, kappa, mean)
    spread = torch.maximum(std, SMALLEST_SPREAD * mean).clamp_min(EPS)
    return 1.0 - torch.sigmoid(temperature * (kappa - mean) / spread), kappa


class KappaTracker(torch.nn.Module):
    """The margin factor psi of each class, from its concentration and its size: KappaFace,
    IEEE Access 2023, 10.1109/ACCESS.2023.3338648. The paper's formulas, not the released code's::

        r = |sum z| / n                  kappa = r (d - r^2) / (1 - r^2)     # n: the vectors really summed
        w_k = 1 - sigmoid(T (kappa - mean) / std)                            # population mean and std over classes
        w_s = (cos(pi class_counts / max(class_counts)) + 1) / 2
        psi = (1 - gamma) w_s + gamma w_k

    Call `update` at each training step and `end_epoch` at each epoch's end, which writes `psi` in place::

        tracker = KappaTracker(torch.bincount(train_labels), 512).to(device)
        loss = MarginLoss(ArcMargin(0.8, psi=tracker.psi), scale=64.0)       # or QMargin; after .to(): it copies

    psi is 1 until the first epoch's end and through `warmup_epochs`; then it is about 1/2 on average,
    hence the large m of 0.8. A class of which fewer than two vectors were summed has no concentration:
    it is left out of mean and std, and gets their kappa: kappa = mean, w_k = 1/2. kappas that are all equal
    give w_k = 1/2, classes of equal size w_s = 0. r is clamped to 0.999.

    Args:
        class_counts: (C,) samples of each class in the training set, integers >= 1.
        embedding_size: d.
        estimator: "momentum" sums the embeddings given through an epoch (`EpochSums`); they are those of a
            `MomentumEncoder`. "memory" keeps a vector for each training sample (`SampleMemory`).
        temperature: T, in (0, 1).
        gamma: in [0, 1]; 0 looks at the sizes alone, 1 at the concentrations alone.
        warmup_epochs: epochs in which psi stays 1; the first is always one.
        process_group: ranks that share the work, as in `PrototypeHead`: each calls `update` with its own samples
            and `end_epoch`, holds the sums of its classes, or the vectors of its part of the sample ids, and gets
            psi and kappa of all classes. Keep the tracker outside DistributedDataParallel, which copies rank 0's
            buffers to the others.
        memory: `SampleMemory`'s arguments, for "memory" alone: num_samples, which it needs, memory_momentum (0.3),
            memory_dtype and memory_device.

    Attributes, all in the state dict, of shapes that never change:
        psi, kappa: (C,); kappa is 0 before the first epoch's end.
        epoch: (), the epochs ended.
        class_counts: (C,); a state dict of other counts is refused.
        estimator: what has been taken in, a module.
        skipped: (), this rank's samples left out in this epoch for nan, inf or all-zero embeddings. Only on an
            accelerator, where raising would stall the step; on the CPU they are refused.

    Raises:
        ValueError: on bad arguments or shapes, labels and sample ids out of range, and, on the CPU, an embedding
            that is nan, inf or all zero, or a sample that has changed its class.

    >>> tracker = KappaTracker([2, 4], 2)
    >>> tracker.update(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1, 1]))
    >>> tracker.end_epoch()
    >>> tracker.kappa, tracker.psi  # the first class is the more concentrated, and the smaller
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
        temperature: float = 0.4,
        gamma: float = 0.7,
        warmup_epochs: int = 0,
        process_group: dist.ProcessGroup | None = None,
        **memory: Any,
    ):
        super().__init__()
        class_counts = _checked_counts(class_counts)
        self.embedding_size = check_integer("embedding_size", embedding_size, 1)
        self.warmup_epochs = check_integer("warmup_epochs", warmup_epochs, 0)
        self.temperature = check_share("temperature", temperature, "(0, 1)")
        self.gamma = check_share("gamma", gamma, "[0, 1]")
        self.classes = Shard(len(class_counts), process_group)
        self.register_buffer("psi", torch.ones(len(class_counts)))
        self.register_buffer("kappa", torch.zeros(len(class_counts)))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("class_counts", class_counts)
        self.register_buffer("skipped", torch.tensor(0))
        self.estimator = _estimator(estimator, self.classes, class_counts, self.embedding_size, memory)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor, sample_ids: Tensor | None = None) -> None:
        """Take in embeddings (B, d) of any norm with global class ids (B,) and, for "memory", sample ids (B,).

        Does nothing in evaluation mode. On an accelerator nothing is read back, unless there are several ranks.
        """
        if not self.training:
            return
        unit, index = self._checked(embeddings, labels, sample_ids)
        unit, index = self.classes.gather_batch(unit, index)
        self.estimator.update(unit, *index.unbind(1))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Recompute kappa and psi in place, and begin an epoch.

        Raises:
            RuntimeError: if psi is due and no embedding was given.
        """
        if self.skipped:
            logger.warning("%d embeddings were nan, inf or all zero and were left out", int(self.skipped))
        length, n = self.estimator.lengths(like=self.psi)
        length, n = length.cpu().double(), n.cpu()
        due = int(self.epoch) + 1 >= self.warmup_epochs
        if due and not bool(n.any()):
            raise RuntimeError("no embedding was given since the last epoch's end: call update() at each training step")
        kappa = concentration(length / n.clamp_min(1), self.embedding_size)
        w_k, kappa = concentration_weight(kappa, n >= 2, self.temperature)
        if len(kappa) > 1 and bool((kappa == kappa[0]).all()):
            logger.warning(
                "each class has the kappa %g, so their sizes alone make the margins: their embeddings hardly differ. A "
                "momentum encoder in a short training needs a smaller momentum",
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
        """Unit embeddings, zero where there is no direction, and class ids and sample ids, (B, 1 or 2)."""
        embeddings = check_training_embeddings(embeddings, self.embedding_size, self.psi, "tracker")
        size, device = len(embeddings), embeddings.device
        index = [check_labels(labels, size, len(self.psi), device)]
        index += self.estimator.check_ids(sample_ids, size, device)
        norm = torch.linalg.vector_norm(embeddings, dim=1)
        check_norms(norm)
        usable = torch.isfinite(norm) & (norm > 0)
        self.skipped += (~usable).sum()
        unit = torch.where(usable[:, None], embeddings / norm.clamp_min(EPS)[:, None], 0.0)
        return unit, torch.stack(index, 1)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, unexpected: list, errors: list
    ) -> None:
        saved = state_dict.get(prefix + "class_counts")
        if saved is not None and not torch.equal(saved.cpu(), self.class_counts.cpu()):
            errors.append(
                f"the saved class counts ({len(saved)} classes, {int(saved.sum())} samples) differ from these "
                f"({len(self.class_counts)} classes, {int(self.class_counts.sum())} samples): the training set or the "
                "order of its classes has changed; resume with the same, or start afresh"
            )
            ours = self.estimator.state_dict(prefix=prefix + "estimator.")
            state_dict.update(ours)  # what is loaded next: nothing of a state that is refused
            return
        for key in [prefix + name for name in ESTIMATOR_STATE if prefix + name in state_dict]:
            state_dict[current_key(key)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


def current_key(key: str) -> str:
    """The state dict's key of what an older checkpoint has under `key`: its estimator was no module of its own."""
    owner, dot, name = key.rpartition(".")
    return f"{owner}{dot}estimator.{name}" if name in ESTIMATOR_STATE and not owner.endswith("estimator") else key


def _estimator(
    kind: str, classes: Shard, class_counts: Tensor, embedding_size: int, memory: dict[str, Any]
) -> EpochSums | SampleMemory:
    if kind not in ESTIMATORS:
        raise ValueError(f'estimator is {kind!r}: give "momentum" or "memory"')
    if unknown := [name for name in memory if name not in MEMORY_ARGUMENTS]:
        known = ", ".join(MEMORY_ARGUMENTS)
        raise TypeError(f"KappaTracker has no argument {unknown[0]!r}: for the memory it has {known}")
    if kind == "momentum":
        if memory:
            raise ValueError(f'{", ".join(memory)}: for estimator "memory" alone, and this one is "momentum"')
        return EpochSums(classes, embedding_size)
    num_samples, total = memory.get("num_samples"), int(class_counts.sum())
    if num_samples is None:
        raise ValueError('num_samples is missing: estimator "memory" keeps a vector for each training sample')
    if num_samples < total:
        raise ValueError(f"num_samples is {num_samples}, class_counts add up to {total}: take both from one data set")
    return SampleMemory(classes, embedding_size, **memory)


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
            f"class {c} has {int(counts[c])} samples: give each class at least one, or leave it out of the classes"
        )
    return counts.long().clone()
