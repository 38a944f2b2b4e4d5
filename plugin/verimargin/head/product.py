"""The logits of a batch: of chunks of classes by a matrix product, and of single pairs of a sample and a class."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

GROUP = 32  # columns that are searched together
PAIRS = 4096  # pairs whose rows are gathered at a time


class Product:
    """The logits s <e, w> / |w|, in the prototypes' own precision.

    Args:
        unit: (B, d), unit embeddings.
        weight: (C, d), prototypes of any norm.
        norm: (C,), their norms, which have to be known for a chunk when its logits are asked for.
        scale: s.
        chunk: the largest number of classes in a chunk.
    """

    def __init__(self, unit: Tensor, weight: Tensor, norm: Tensor, scale: float, chunk: int):
        self.unit, self.weight, self.norm, self.scale = unit, weight, norm, scale
        self.logit = unit.new_empty(len(unit) * chunk)

    def __call__(self, start: int, stop: int) -> Tensor:
        """The logits (B, stop - start); the next call overwrites them."""
        logit = leading(self.logit, len(self.unit), stop - start)
        torch.mm(self.unit, self.weight[start:stop].t(), out=logit)
        return logit.mul_(self.scale / self.norm[start:stop])

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """The logits of pairs (row of the batch, class), which are sorted by row."""
        cosine = pair_products(self.unit, self.weight, row, column).div_(self.norm[column])
        return cosine.mul_(self.scale)


def pair_products(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """<left[row_k], right[column_k]> for pairs that are sorted by row, without storing the gathered rows."""
    if left.device.type == "cpu" and not torch.compiler.is_compiling():  # which does not know sparse tensors
        _accept_sparse_tensors()
        ends = torch.searchsorted(row, torch.arange(len(left) + 1))
        values, shape = left.new_zeros(len(row)), (len(left), len(right))
        pattern = torch.sparse_csr_tensor(ends, column, values, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, left, right.t()).values()
    return gathered_products(left, right, row, column)


def gathered_products(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """As `pair_products`, for pairs in any order, and with gathered rows."""
    pieces = zip(row.split(PAIRS), column.split(PAIRS))
    return torch.cat([torch.linalg.vecdot(left[r], right[c]) for r, c in pieces])


@functools.cache
def _accept_sparse_tensors() -> None:
    """Let torch say once, to nobody, that its sparse tensors are in beta and are not checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([]).long(), torch.tensor([]), (1, 1))


def entries_above(logit: Tensor, bound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, columns and values of the entries above the bound of their row, (B, 1), or of their group, (B, G).

    Equivalent to::

        row, column = (logit > bound).nonzero(as_tuple=True)         # each column of `bound` repeated for its group
        value = logit[row, column]

    and ten times as fast if there are few such entries: only groups with an entry above the bound are searched.
    """
    if logit.shape[1] % GROUP:
        if bound.shape[1] > 1:
            bound = bound.repeat_interleave(GROUP, 1)[:, : logit.shape[1]]
        row, column = (logit > bound).nonzero(as_tuple=True)
        return row, column, logit[row, column]
    groups = logit.unflatten(1, (-1, GROUP))
    bound = bound.expand(groups.shape[:2])
    row, group = (groups.amax(2) > bound).nonzero(as_tuple=True)
    place = row * groups.shape[1] + group
    picked = groups.flatten(0, 1).index_select(0, place)
    hit, part = (picked > bound.flatten().index_select(0, place)[:, None]).nonzero(as_tuple=True)
    value = picked.flatten().index_select(0, hit * GROUP + part)
    return row.index_select(0, hit), group.index_select(0, hit) * GROUP + part, value


def leading(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """The beginning of a flat buffer as a matrix."""
    return buffer[: rows * columns].view(rows, columns)
