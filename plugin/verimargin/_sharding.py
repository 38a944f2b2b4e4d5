"""Classes or samples that are split over the ranks of a process group, and how the ranks exchange values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def part_of(total: int, ranks: int, rank: int) -> tuple[int, int]:
    """Where the entries of a rank begin, and how many there are: one more on the first `total % ranks` ranks."""
    share, rest = divmod(total, ranks)
    return share * rank + min(rank, rest), share + (rank < rest)


def rows_of(parts: Sequence[Tensor], ranks: int, rank: int) -> Tensor:
    """The rows that a rank of `ranks` holds, as a tensor of its own, from the parts of another number of ranks.

    Only the rows that are needed are read, so that the parts may lie in files (`torch.load(..., mmap=True)`).
    """
    start, size = part_of(sum(map(len, parts)), ranks, rank)
    slices, begin = [], 0
    for part in parts:
        low, high = max(start - begin, 0), min(start + size - begin, len(part))
        if low < high:
            slices.append(part[low:high])
        begin += len(part)
    return torch.cat(slices)


def is_first_rank() -> bool:
    """Whether this is the process that speaks for all: rank 0, or one without other ranks."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


class Shard:
    """This rank's part of `total` classes or samples: the entries from `start` up to `start + size`.

    The first `total % ranks` ranks hold one entry more than the others, as in Partial FC (a DTensor splits otherwise).
    Without a group, this process holds all entries, and every exchange below returns its input.
    """

    def __init__(self, total: int, group: dist.ProcessGroup | None):
        self.group = group
        self.rank, self.ranks = (dist.get_rank(group), dist.get_world_size(group)) if group else (0, 1)
        if self.rank < 0:
            raise ValueError("this process is not a member of process_group: build the module on its members only")
        if total < self.ranks:
            raise ValueError(f"there are {total} classes or samples on {self.ranks} ranks: give each rank at least one")
        self.total = total
        self.start, self.size = self.part(self.rank)
        self._unanimous: dict[str, bool] = {}

    def part(self, rank: int) -> tuple[int, int]:
        """Where the entries of another rank begin, and how many there are."""
        return part_of(self.total, self.ranks, rank)

    def __deepcopy__(self, memo: dict) -> Shard:
        return self  # it belongs to its processes, and a process group cannot be copied

    def check_agreement(self, **settings: float) -> None:
        """Refuse, on every rank, settings that are not the same on all ranks; every rank has to call this.

        Ranks that disagree would wait for each other for ever, or train on different losses.
        """
        if self.group is None:
            return
        nccl = dist.get_backend(self.group) == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        own = torch.tensor(list(settings.values()), dtype=torch.float64, device=device)
        gathered = [torch.empty_like(own) for _ in range(self.ranks)]
        dist.all_gather(gathered, own, group=self.group)
        values = torch.stack(gathered, 1).cpu()
        for name, row in zip(settings, values):
            if bool((row != row[0]).any()):
                other = int((row != row[0]).nonzero()[0])
                raise ValueError(
                    f"{name} is {float(row[0]):g} on rank 0 and {float(row[other]):g} on rank {other}: give all ranks "
                    "the same settings"
                )

    def unanimous(self, question: str, answer: Callable[[], bool], device: torch.device) -> bool:
        """Whether all ranks answer yes. They exchange it once, and stand by their first answers from then on.

        It keeps them together where what a rank can do decides which values all of them exchange.
        """
        if self.group is None:
            return answer()
        if question not in self._unanimous:
            against = self.max(torch.tensor(int(not answer()), device=device))
            self._unanimous[question] = not bool(against)
        return self._unanimous[question]

    def sum(self, x: Tensor) -> Tensor:
        return self._reduce(x, dist.ReduceOp.SUM)

    def max(self, x: Tensor) -> Tensor:
        return self._reduce(x, dist.ReduceOp.MAX)

    def _reduce(self, x: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        if self.group is not None:
            dist.all_reduce(x, op, group=self.group)
        return x

    def gather_batch(self, embeddings: Tensor, labels: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """The samples of all ranks, in rank order; the ranks may have different numbers of samples.

        The gradient of the embeddings is multiplied by the number of ranks, because data-parallel
        training averages the gradients of the backbone over the ranks afterwards. `others` have no gradient.
        """
        if self.group is None:
            return embeddings, labels, *others
        lengths = [torch.empty(1, dtype=torch.long, device=labels.device) for _ in range(self.ranks)]
        dist.all_gather(lengths, torch.tensor([len(labels)], device=labels.device), group=self.group)
        sizes = torch.cat(lengths).tolist()
        without_gradient = (_gather_rows(rows, self, sizes) for rows in (labels, *others))
        return _GatherRows.apply(embeddings, self, sizes), *without_gradient

    def gather_lists(self, values: Tensor, pointer: Tensor) -> tuple[Tensor, Tensor, Tensor | slice]:
        """The lists of all ranks as one, sorted by row, and within a row by rank.

        Args:
            values: (n,) of this rank: those of row i from pointer[i] to pointer[i + 1].
            pointer: (rows + 1,) int64, with the same number of rows on all ranks.

        Returns:
            The values of all ranks, their pointer, and the places of this rank's values among them.
        """
        if self.group is None:
            return values, pointer, slice(None)
        counts = torch.empty(self.ranks, len(pointer) - 1, dtype=pointer.dtype, device=pointer.device)
        dist.all_gather(list(counts), pointer.diff(), group=self.group)
        sizes = counts.sum(1).tolist()
        listed = _gather_rows(values, self, sizes)  # by rank, and by row within a rank
        per_row = counts.sum(0).cumsum(0)
        joined_pointer = torch.cat([per_row.new_zeros(1), per_row])
        counts_before = counts.flatten().cumsum(0).view_as(counts) - counts
        start = joined_pointer[:-1] + counts.cumsum(0) - counts  # of each rank's part of each row
        shift = torch.repeat_interleave((start - counts_before).flatten(), counts.flatten(), output_size=len(listed))
        place = torch.arange(len(listed), device=pointer.device) + shift
        own = place[sum(sizes[: self.rank]) :][: len(values)]
        return torch.empty_like(listed).index_copy_(0, place, listed), joined_pointer, own


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, shard: Shard, sizes: list[int]) -> Tensor:
        ctx.shard, ctx.sizes = shard, sizes
        return _gather_rows(rows, shard, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        shard, sizes = ctx.shard, ctx.sizes
        grad = shard.sum(grad.contiguous().clone())
        return grad.split(sizes)[shard.rank] * shard.ranks, None, None


def _gather_rows(rows: Tensor, shard: Shard, sizes: list[int]) -> Tensor:
    padded = rows.new_zeros(max(1, *sizes), *rows.shape[1:])  # no backend has to exchange nothing
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded, group=shard.group)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes)])
