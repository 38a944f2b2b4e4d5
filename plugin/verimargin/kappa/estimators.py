"""The two estimators of KappaFace's mean resultant lengths: sums over an epoch, or a memory of all training samples.

An estimator receives unit embeddings, with zeros for an embedding without a direction, and returns |sum z| and n of
each class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import EPS, check_integer, check_sample_ids, check_share
from .._sharding import Shard

# How many classes and vectors SampleMemory.lengths processes at a time: 64 MiB each, in float64 at d = 512.
CLASS_BLOCK, ROW_BLOCK = 2**14, 2**14
LARGE_CLASS = 2**12  # samples; float32 would lose digits in the sum of more


class EpochSums(torch.nn.Module):
    """Estimator "momentum": the sum of the embeddings of each class since the epoch began.

    Args:
        classes: this rank's part of the classes.
        embedding_size: d.
        largest_class: the number of samples of the largest class.

    Attributes: sums (local classes, d), in float64 if a class is large, and counts (local classes,).
    """

    SHARDED: ClassVar[dict[str, str]] = {"sums": "classes", "counts": "classes"}
    sums: Tensor
    counts: Tensor

    def __init__(self, classes: Shard, embedding_size: int, largest_class: int):
        super().__init__()
        self.classes = classes
        dtype = torch.float64 if largest_class > LARGE_CLASS else torch.float32
        self.register_buffer("sums", torch.zeros(classes.size, embedding_size, dtype=dtype))
        self.register_buffer("counts", torch.zeros(classes.size, dtype=torch.long))

    def check_ids(self, sample_ids: Tensor | None, batch_size: int, device: torch.device) -> list[Tensor]:
        return []  # sample ids are not needed

    def update(self, unit: Tensor, label: Tensor) -> None:
        column = label - self.classes.start
        if self.classes.ranks > 1:
            mine = (column >= 0) & (column < self.classes.size)
            unit, column = unit[mine], column[mine]
        self.sums.index_add_(0, column, unit.to(self.sums.dtype))
        self.counts.index_add_(0, column, unit.any(1).long())

    def lengths(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """|sum z| and n of all classes, (C,), with the dtype and on the device of `like` (C,)."""
        mine = slice(self.classes.start, self.classes.start + self.classes.size)
        length, n = torch.zeros_like(like), torch.zeros_like(like, dtype=torch.long)
        length[mine], n[mine] = torch.linalg.vector_norm(self.sums, dim=1).to(like.dtype), self.counts
        return self.classes.sum(length), self.classes.sum(n)

    def begin_epoch(self) -> None:
        self.sums.zero_()
        self.counts.zero_()


class SampleMemory(torch.nn.Module):
    """Estimator "memory": one unit vector per training sample, z <- normalize(a z + (1 - a) z_new).

    The sums run over all vectors, including those of samples not seen in this epoch. The first vector of a sample is
    stored unchanged. Several copies of a sample in one batch count as one, with their mean direction.

    Args:
        classes: this rank's part of the classes.
        embedding_size: d.
        num_samples: the number of sample ids, which are 0..num_samples - 1.
        memory_momentum: a, the weight of the old vector, in [0, 1).
        memory_dtype: dtype of the stored vectors, such as torch.float16.
        memory_device: "cpu" keeps the vectors on the CPU wherever the module moves; every step then waits until its
            embeddings have been copied there.

    Attributes:
        memory: (local samples, d), the vector of each sample.
        memory_class: (local samples,), the class of each sample, or -1 if it was never seen.
    """

    SHARDED: ClassVar[dict[str, str]] = {"memory": "samples", "memory_class": "samples"}
    memory: Tensor
    memory_class: Tensor

    def __init__(
        self,
        classes: Shard,
        embedding_size: int,
        num_samples: int,
        memory_momentum: float = 0.3,
        memory_dtype: torch.dtype = torch.float32,
        memory_device: str | None = None,
    ):
        super().__init__()
        if memory_device not in (None, "cpu") or not getattr(memory_dtype, "is_floating_point", False):
            raise ValueError(
                f'memory_device is {memory_device!r}, memory_dtype {memory_dtype!r}: give "cpu" or None, and a '
                "floating-point type such as torch.float16"
            )
        self.memory_momentum = check_share("memory_momentum", memory_momentum, "[0, 1)")
        self.memory_device = memory_device
        self.classes, self.samples = classes, Shard(check_integer("num_samples", num_samples, 1), classes.group)
        # zeros, not random vectors: a sample that has not been seen has no direction
        self.register_buffer("memory", torch.zeros(self.samples.size, embedding_size, dtype=memory_dtype))
        self.register_buffer("memory_class", torch.full((self.samples.size,), -1))

    def check_ids(self, sample_ids: Tensor | None, batch_size: int, device: torch.device) -> list[Tensor]:
        if sample_ids is None:
            raise ValueError('sample_ids are missing: estimator "memory" needs them, "momentum" does not')
        return [check_sample_ids(sample_ids, batch_size, self.samples.total, device)]

    def update(self, unit: Tensor, label: Tensor, sample_id: Tensor) -> None:
        unit, label, row = (x.to(self.memory.device) for x in (unit, label, sample_id - self.samples.start))
        if self.samples.ranks > 1:
            mine = (row >= 0) & (row < self.samples.size)
            unit, label, row = unit[mine], label[mine], row[mine]
        first = torch.searchsorted(row.sort().values, row)  # the same value for all copies of a sample
        self._check_classes_kept(label, row, first)
        new = F.normalize(torch.zeros_like(unit).index_add_(0, first, unit), eps=EPS)[first]
        old = self.memory[row].to(unit.dtype)
        mixed = F.normalize(self.memory_momentum * old + (1.0 - self.memory_momentum) * new, eps=EPS)
        self.memory[row] = torch.where(new.any(1, keepdim=True), mixed, old).to(self.memory.dtype)
        self.memory_class.scatter_reduce_(0, row, torch.where(unit.any(1), label, -1), "amax")

    def lengths(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """|sum z| and n of all classes, (C,), with the dtype and on the device of `like` (C,)."""
        length, n = torch.zeros_like(like), torch.zeros_like(like, dtype=torch.long)
        for start in range(0, len(n), CLASS_BLOCK):
            size = min(CLASS_BLOCK, len(n) - start)
            rows = ((self.memory_class >= start) & (self.memory_class < start + size)).nonzero().squeeze(1)
            column = self.memory_class[rows] - start
            sums = torch.zeros(size, self.memory.shape[1], dtype=torch.float64, device=self.memory.device)
            for row, place in zip(rows.split(ROW_BLOCK), column.split(ROW_BLOCK)):
                sums.index_add_(0, place, self.memory[row].to(sums.dtype))
            sums = self.classes.sum(sums.to(like.device))
            length[start : start + size] = torch.linalg.vector_norm(sums, dim=1).to(like.dtype)
            n[start : start + size] = column.bincount(minlength=size)
        return length, self.classes.sum(n)

    def begin_epoch(self) -> None:
        pass  # the memory outlives the epochs

    def _check_classes_kept(self, label: Tensor, row: Tensor, first: Tensor) -> None:
        before = self.memory_class[row]
        beside = torch.zeros_like(label).scatter_reduce_(0, first, label, "amax")[first]  # of copies in this batch
        before = torch.where(before < 0, beside, before)
        kept = before == label
        if row.device.type != "cpu":
            torch._assert_async(kept.all(), "a sample id comes with two classes")
        elif not bool(kept.all()):
            i = int((~kept).nonzero()[0])
            raise ValueError(
                f"sample id {int(row[i]) + self.samples.start} comes with class {int(label[i])}, but came with class "
                f"{int(before[i])} before or in this batch: give each training sample its own id, the same in "
                "every epoch"
            )

    def _apply(self, fn: Callable, recurse: bool = True) -> SampleMemory:
        """Move the memory unless it has to stay on the CPU, and keep its dtype."""
        kept = {"memory": self.memory, "memory_class": self.memory_class}
        self._buffers.clear()
        super()._apply(fn, recurse)
        for name, value in kept.items():
            self._buffers[name] = value if self.memory_device == "cpu" else fn(value).to(value.dtype)
        return self
