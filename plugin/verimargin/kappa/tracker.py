"""KappaFace's tracking: the concentration of each class, and from it and its size the class's margin (DESIGN 2.3)."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import check_at_least, check_finite, check_labels, check_norms, check_sample_ids
from .._sharding import ClassShard
from ..head.streaming import EPS

logger = logging.getLogger(__name__)

LARGEST_R = 0.999  # kappa is at most some 500 d: beyond, float32 sums carry no digits of 1 - r^2
SMALLEST_SPREAD = 1e-4  # of the mean kappa: a smaller std is rounding, and is not to be blown up
CLASS_BLOCK, ROW_BLOCK = 2**15, 2**14  # what end_epoch() sums at a time: 64 and 32 MiB at d = 512


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
        estimator: "momentum" sums the embeddings given through an epoch; they are those of a momentum encoder.
            "memory" keeps a vector for each training sample, z <- normalize(a z + (1 - a) z_new), and sums
            these when the epoch ends, each once, also those not seen in this epoch. A sample's first vector is
            taken as it is. Copies of a sample in one batch enter as one, by their mean direction.
        num_samples: sample ids are below it; for "memory" alone.
        memory_momentum: a, the share of the old vector, in [0, 1).
        temperature: T, in (0, 1).
        gamma: in [0, 1]; 0 looks at the sizes alone, 1 at the concentrations alone.
        warmup_epochs: epochs in which psi stays 1; the first is always one.
        process_group: ranks that share the work, as in `PrototypeHead`: each calls `update` with its own samples
            and `end_epoch`, holds the sums of its classes, or the vectors of its part of the sample ids, and gets
            psi and kappa of all classes. Keep the tracker outside DistributedDataParallel, which copies rank 0's
            buffers to the others.
        memory_dtype: of the kept vectors, such as torch.float16.
        memory_device: "cpu" keeps them there wherever the tracker moves; a step then waits for its embeddings.

    Attributes, all in the state dict, of shapes that never change:
        psi, kappa: (C,); kappa is 0 before the first epoch's end.
        epoch: (), the epochs ended.
        class_counts: (C,); a state dict of other counts is refused.
        sums, counts: (local classes, d) and (local classes,), for "momentum".
        memory, memory_class: (local samples, d) and their classes, -1 if never seen, for "memory".
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
    sums: Tensor
    counts: Tensor
    memory: Tensor | None
    memory_class: Tensor

    def __init__(
        self,
        class_counts,
        embedding_size: int,
        *,
        estimator: str = "momentum",
        num_samples: int | None = None,
        memory_momentum: float = 0.3,
        temperature: float = 0.4,
        gamma: float = 0.7,
        warmup_epochs: int = 0,
        process_group=None,
        memory_dtype: torch.dtype = torch.float32,
        memory_device: str | None = None,
    ):
        super().__init__()
        if estimator not in ("momentum", "memory"):
            raise ValueError(f'estimator is {estimator!r}: give "momentum" or "memory"')
        if memory_device not in (None, "cpu") or not getattr(memory_dtype, "is_floating_point", False):
            raise ValueError(
                f'memory_device is {memory_device!r}, memory_dtype {memory_dtype!r}: give "cpu" or None, and a '
                "floating-point type such as torch.float16"
            )
        class_counts = _checked_counts(class_counts)
        self.embedding_size = _checked_integer("embedding_size", embedding_size, 1)
        self.warmup_epochs = _checked_integer("warmup_epochs", warmup_epochs, 0)
        self.estimator, self.memory_device = estimator, memory_device
        self.memory_momentum = _checked_share("memory_momentum", memory_momentum, "[0, 1)")
        self.temperature = _checked_share("temperature", temperature, "(0, 1)")
        self.gamma = _checked_share("gamma", gamma, "[0, 1]")
        self.classes = ClassShard(len(class_counts), process_group)
        self.register_buffer("psi", torch.ones(len(class_counts)))
        self.register_buffer("kappa", torch.zeros(len(class_counts)))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("class_counts", class_counts)
        self.register_buffer("skipped", torch.tensor(0))
        self.register_buffer("memory", None)
        if estimator == "momentum":
            self.register_buffer("sums", torch.zeros(self.classes.size, embedding_size))
            self.register_buffer("counts", torch.zeros(self.classes.size, dtype=torch.long))
        else:
            self.samples = ClassShard(_checked_num_samples(num_samples, class_counts), process_group)
            # zeros, not random vectors: an unseen sample has no direction
            self.register_buffer("memory", torch.zeros(self.samples.size, embedding_size, dtype=memory_dtype))
            self.register_buffer("memory_class", torch.full((self.samples.size,), -1))

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor, sample_ids: Tensor | None = None) -> None:
        """Take in embeddings (B, d) of any norm with global class ids (B,) and, for "memory", sample ids (B,).

        Does nothing in evaluation mode. On an accelerator nothing is read back, unless there are several ranks.
        """
        if not self.training:
            return
        unit, index = self._checked(embeddings, labels, sample_ids)
        unit, index = self.classes.gather_batch(unit, index)
        if self.memory is None:
            self._accumulate(unit, index[:, 0])
        else:
            self._remember(self.memory, *(x.to(self.memory.device) for x in (unit, *index.unbind(1))))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Recompute kappa and psi in place, and begin an epoch.

        Raises:
            RuntimeError: if psi is due and no embedding was given.
        """
        if self.skipped:
            logger.warning("%d embeddings were nan, inf or all zero and were left out", int(self.skipped))
        length, n = self._length_of_sums() if self.memory is None else self._length_of_memory(self.memory)
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
        if self.memory is None:
            self.sums.zero_()
            self.counts.zero_()

    def extra_repr(self) -> str:
        return (
            f"classes={len(self.psi)}, embedding_size={self.embedding_size}, estimator={self.estimator!r}, "
            f"temperature={self.temperature:g}, gamma={self.gamma:g}, warmup_epochs={self.warmup_epochs}"
        )

    def _checked(self, embeddings: Tensor, labels: Tensor, sample_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Unit embeddings, zero where there is no direction, and class ids and sample ids, (B, 1 or 2)."""
        if embeddings.dim() != 2 or embeddings.shape[1] != self.embedding_size:
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}: give (B, {self.embedding_size})")
        if embeddings.device != self.psi.device:
            raise ValueError(
                f"the embeddings are on {embeddings.device}, the tracker on {self.psi.device}: move it with .to(); "
                "in a SpeechBrain recipe, list it under modules"
            )
        if self.psi.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the tracker is {self.psi.dtype}: keep it in float32; memory_dtype makes the memory smaller"
            )
        index = [check_labels(labels, len(embeddings), len(self.psi), embeddings.device)]
        if self.memory is not None:
            if sample_ids is None:
                raise ValueError('sample_ids are missing: estimator "memory" needs them, "momentum" does not')
            index += [check_sample_ids(sample_ids, len(embeddings), self.samples.num_classes, embeddings.device)]
        check_finite("embedding values", embeddings)
        embeddings = embeddings.to(self.psi.dtype)
        norm = torch.linalg.vector_norm(embeddings, dim=1)
        check_norms(norm)
        usable = torch.isfinite(norm) & (norm > 0)
        self.skipped += (~usable).sum()
        unit = torch.where(usable[:, None], embeddings / norm.clamp_min(EPS)[:, None], 0.0)
        return unit, torch.stack(index, 1)

    def _accumulate(self, unit: Tensor, label: Tensor) -> None:
        column = label - self.classes.start
        if self.classes.ranks > 1:
            mine = (column >= 0) & (column < self.classes.size)
            unit, column = unit[mine], column[mine]
        self.sums.index_add_(0, column, unit)
        self.counts.index_add_(0, column, unit.any(1).long())

    def _remember(self, memory: Tensor, unit: Tensor, label: Tensor, sample_id: Tensor) -> None:
        row = sample_id - self.samples.start
        if self.samples.ranks > 1:
            mine = (row >= 0) & (row < self.samples.size)
            unit, label, row = unit[mine], label[mine], row[mine]
        self._check_classes_kept(label, row)
        first = torch.searchsorted(row.sort().values, row)  # the same for all copies of a sample
        new = F.normalize(torch.zeros_like(unit).index_add_(0, first, unit), eps=EPS)[first]
        old = memory[row].to(unit.dtype)
        mixed = F.normalize(self.memory_momentum * old + (1.0 - self.memory_momentum) * new, eps=EPS)
        memory[row] = mixed.to(memory.dtype)
        self.memory_class.scatter_reduce_(0, row, torch.where(unit.any(1), label, -1), "amax")

    def _check_classes_kept(self, label: Tensor, row: Tensor) -> None:
        before = self.memory_class[row]
        kept = (before < 0) | (before == label)
        if row.device.type != "cpu":
            torch._assert_async(kept.all(), "a sample has changed its class")
        elif not bool(kept.all()):
            i = int((~kept).nonzero()[0])
            raise ValueError(
                f"sample id {int(row[i]) + self.samples.start} comes with class {int(label[i])} and came with class "
                f"{int(before[i])}: give each training sample an id of its own, the same in every epoch"
            )

    def _length_of_sums(self) -> tuple[Tensor, Tensor]:
        """|sum z| and n of all classes, (C,), of which each rank knows its own."""
        mine = slice(self.classes.start, self.classes.start + self.classes.size)
        length, n = torch.zeros_like(self.psi), torch.zeros_like(self.class_counts)
        length[mine], n[mine] = torch.linalg.vector_norm(self.sums, dim=1), self.counts
        return self.classes.sum(length), self.classes.sum(n)

    def _length_of_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """|sum z| and n of all classes, (C,): each rank sums its samples, a block of classes at a time."""
        length, n = torch.zeros_like(self.psi), torch.zeros_like(self.class_counts)
        for start in range(0, len(n), CLASS_BLOCK):
            size = min(CLASS_BLOCK, len(n) - start)
            rows = ((self.memory_class >= start) & (self.memory_class < start + size)).nonzero().squeeze(1)
            column = self.memory_class[rows] - start
            sums = torch.zeros(size, self.embedding_size, dtype=self.psi.dtype, device=memory.device)
            for row, place in zip(rows.split(ROW_BLOCK), column.split(ROW_BLOCK)):
                sums.index_add_(0, place, memory[row].to(sums.dtype))
            sums = self.classes.sum(sums.to(self.psi.device))
            length[start : start + size] = torch.linalg.vector_norm(sums, dim=1)
            n[start : start + size] = column.bincount(minlength=size)
        return length, self.classes.sum(n)

    def _apply(self, fn, recurse=True):
        """Moves the memory, if it may move, and keeps its dtype."""
        kept = {} if self.memory is None else {"memory": self.memory, "memory_class": self.memory_class}
        self._buffers.update(dict.fromkeys(kept))
        super()._apply(fn, recurse)
        for name, value in kept.items():
            self._buffers[name] = value if self.memory_device == "cpu" else fn(value).to(value.dtype)
        return self

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        saved = state_dict.get(prefix + "class_counts")
        if saved is not None and not torch.equal(saved.cpu(), self.class_counts.cpu()):
            errors.append(
                f"the saved class counts ({len(saved)} classes, {int(saved.sum())} samples) differ from these "
                f"({len(self.class_counts)} classes, {int(self.class_counts.sum())} samples): the training set or the "
                "order of its classes has changed; resume with the same, or start afresh"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)


def _checked_counts(class_counts) -> Tensor:
    counts = torch.as_tensor(class_counts).cpu()
    if counts.dim() != 1 or len(counts) == 0 or counts.is_floating_point():
        raise ValueError(
            f"class_counts are {counts.dtype} of shape {tuple(counts.shape)}: give one integer a class, (C,), "
            "such as torch.bincount(labels)"
        )
    if bool((counts < 1).any()):
        c = int((counts < 1).nonzero()[0])
        raise ValueError(
            f"class {c} has {int(counts[c])} samples: give each class at least one, or leave it out of the classes"
        )
    return counts.long().clone()


def _checked_num_samples(num_samples: int | None, class_counts: Tensor) -> int:
    if num_samples is None:
        raise ValueError('num_samples is missing: estimator "memory" keeps a vector for each training sample')
    num_samples, total = _checked_integer("num_samples", num_samples, 1), int(class_counts.sum())
    if num_samples < total:
        raise ValueError(f"num_samples is {num_samples}, class_counts add up to {total}: take both from one data set")
    return num_samples


def _checked_integer(name: str, value: int, least: int) -> int:
    if int(value) != value or value < least:
        raise ValueError(f"{name} is {value!r}: give an integer >= {least}")
    return int(value)


def _checked_share(name: str, value: float, interval: str) -> float:
    value = check_at_least(name, value, 0.0, strict=interval[0] == "(")
    if value > 1.0 or (value == 1.0 and interval[-1] == ")"):
        raise ValueError(f"{name} is {value}: give a number in {interval}")
    return value
