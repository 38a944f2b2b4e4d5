"""The logits of a batch: of chunks of classes by a matrix product, and of single pairs of a sample and a class.

The logit of a class with K sub-centres is the largest of theirs. Their prototypes are K rows that follow one another.
"""

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
        subcenters: K.
    """

    def __init__(self, unit: Tensor, weight: Tensor, norm: Tensor, scale: float, chunk: int, subcenters: int = 1):
        self.unit, self.weight, self.norm, self.scale = unit, weight, norm, scale
        self.subcenters, self.logit = subcenters, unit.new_empty(len(unit) * chunk * subcenters)

    def __call__(self, start: int, stop: int) -> Tensor:
        """The logits (B, stop - start) of these classes; the next call overwrites them."""
        start, stop = start * self.subcenters, stop * self.subcenters
        logit = leading(self.logit, len(self.unit), stop - start)
        torch.mm(self.unit, self.weight[start:stop].t(), out=logit)
        return largest(logit.mul_(self.scale / self.norm[start:stop]), self.subcenters)

    def pairs(self, row: Tensor, column: Tensor) -> Tensor:
        """The logits of pairs (row of the batch, class), which are sorted by row."""
        row, column = pairs_of_subcenters(row, column, self.subcenters)
        cosine = pair_products(self.unit, self.weight, row, column).div_(self.norm[column])
        return largest(cosine, self.subcenters).mul_(self.scale)


def largest(logit: Tensor, subcenters: int) -> Tensor:
    """The largest logit of each class, (..., C), from those of all sub-centres, (..., C K)."""
    return logit if subcenters == 1 else logit.unflatten(-1, (-1, subcenters)).amax(-1)


def pairs_of_subcenters(row: Tensor, column: Tensor, subcenters: int) -> tuple[Tensor, Tensor]:
    """The pairs (row of the batch, prototype) with all K prototypes of each class."""
    if subcenters == 1:
        return row, column
    prototype = column[:, None] * subcenters + torch.arange(subcenters, device=column.device)
    return row.repeat_interleave(subcenters), prototype.flatten()


def nearest_prototypes(
    unit: Tensor, weight: Tensor, norm: Tensor, row: Tensor, column: Tensor, subcenters: int
) -> Tensor:
    """The row of `weight` that gives each pair (row of the batch, class) its logit: the only one with a gradient."""
    if subcenters == 1:
        return column
    row, prototype = pairs_of_subcenters(row, column, subcenters)
    cosine = gathered_products(unit, weight, row, prototype) / norm[prototype]
    return column * subcenters + cosine.unflatten(0, (-1, subcenters)).argmax(1)


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
