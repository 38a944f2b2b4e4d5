import math

import pytest
import torch
from kernel_checks import KERNELS_MUST_RUN, opcheck
from torch.nn import functional as F
from verimargin.head.kernels import products
from verimargin.head.kernels.products import GROUP, group_maxima, survivors
from verimargin.head.kernels.rounding import round_rows, round_unit_rows

pytestmark = KERNELS_MUST_RUN
SHAPES = [(1, 1, 1), (5, 300, 37), (130, 140, 64), (3, 129, 200), (2, 1000, 128)]
SCALE = 32.0


class Problem:
    """Clustered embeddings and prototypes, rounded, with the exact cosines of what was rounded."""

    def __init__(self, batch, classes, size, seed=0):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, size, generator=generator)
        weight = (weight + 2 * weight[torch.arange(classes) // 7 * 7]) * (0.1 + torch.rand(classes, 1))
        near = torch.randint(classes, (batch,), generator=generator)
        unit = F.normalize(F.normalize(weight)[near] + 0.5 * F.normalize(torch.randn(batch, size)))
        self.target = torch.where(torch.arange(batch) % 3 == 2, -1, near)  # some on another rank
        self.w, self.norm, self.residual = round_rows(weight)
        self.e, self.e_error = round_unit_rows(unit)
        self.cosine = unit.double() @ weight.double().T / self.norm.double()
        self.others = self.cosine.masked_fill(self.target[:, None] == torch.arange(classes), -math.inf)
        row_slack, column_slack = products.slacks(self.e_error, self.residual, self.e.shape[1])
        self.slack = (row_slack[:, None] + column_slack).double()

    def survivors(self, bound):
        return survivors(self.e, self.w, self.e_error, self.residual, bound, self.target)

    def group_maxima(self, stride=1):
        target = torch.where((self.target >= 0) & (self.target % stride == 0), self.target // stride, -1)
        return group_maxima(self.e, self.w[::stride], self.e_error, self.residual[::stride], target, SCALE)


def maxima_of(values):
    padded = F.pad(values, (0, -values.shape[1] % GROUP), value=-math.inf)
    return padded.unflatten(1, (-1, GROUP)).amax(2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stride", [1, 8])
def test_group_maxima_are_lower_bounds_and_close(shape, stride):
    problem = Problem(*shape)
    found = problem.group_maxima(stride)
    true = SCALE * maxima_of(problem.others[:, ::stride])
    lowest = SCALE * maxima_of((problem.others - 2.001 * problem.slack)[:, ::stride])
    assert found.shape == true.shape
    assert bool((found <= true).all())
    assert bool((found >= lowest).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quantile", [0.0, 0.98])
def test_survivors_are_all_that_may_be_above_the_bound(shape, quantile):
    problem = Problem(*shape)
    bound = problem.cosine.quantile(quantile, 1).float()
    row, column, pointer = problem.survivors(bound)
    found = torch.zeros_like(problem.cosine, dtype=torch.bool)
    found[row, column] = True
    limit = bound.double()[:, None]
    assert bool(found[problem.others > limit].all()), "an entry above the bound is missing"
    assert not bool(found[problem.others + 2.001 * problem.slack < limit].any()), "an entry far below it is listed"
    assert len(row) == int(found.sum()), "an entry is listed twice"
    key = row * shape[1] + column
    assert bool((key[1:] > key[:-1]).all()), "the list is not sorted"
    assert pointer.tolist() == [0, *found.sum(1).cumsum(0).tolist()]


@pytest.mark.parametrize("up", [False, True])
def test_rounding_errors_that_all_have_one_sign(up):
    """Nearly every element of embedding and prototype is rounded by nearly half a unit, in the same direction."""
    element = 2.0**-3 * (1.0 + 2.0**-10 - 0.98 * 2.0**-11 if up else 1.0 + 0.98 * 2.0**-11)
    row = torch.full((1, 61), element, dtype=torch.float64)
    row[0, 60] = (1.0 - 60 * element**2) ** 0.5
    unit = row.float()
    (w, norm, residual), (e, e_error) = round_rows(unit), round_unit_rows(unit)
    cosine = float((unit.double() ** 2).sum() / norm.double())
    screened = float((e.double() * w.double()).sum())
    assert abs(screened - cosine) > 1.8 * float(residual)  # one residual alone would not do
    none = torch.tensor([-1])
    found, _, _ = survivors(e, w, e_error, residual, torch.tensor([cosine - 1e-6]), none)
    assert len(found) == 1
    assert float(group_maxima(e, w, e_error, residual, none, 1.0)) <= cosine


def test_all_rows_inactive_and_all_active():
    problem = Problem(5, 300, 37)
    row, column, pointer = problem.survivors(torch.full((5,), 1.5))
    assert (len(row), len(column), pointer.tolist()) == (0, 0, [0] * 6)
    row, column, _ = problem.survivors(torch.tensor([-1.5, -math.inf, 1.5, -1.5, math.inf]))
    assert torch.bincount(row, minlength=5).tolist() == [299, 299, 0, 299, 0]
    assert bool((column != problem.target[row]).all())


def test_nan_rows_are_never_lost_and_spoil_nothing_else():
    weight = F.normalize(torch.randn(40, 16))
    weight[[3, 35], 2] = math.nan
    w, _, residual = round_rows(weight)
    e, e_error = round_unit_rows(F.normalize(torch.randn(4, 16)))
    e[1] = math.nan
    target = torch.full((4,), 3)
    target[0] = 7
    row, column, _ = survivors(e, w, e_error, residual, torch.full((4,), 1.5), target)
    assert list(zip(row.tolist(), column.tolist())) == [(0, 3), (0, 35), (2, 35), (3, 35)]
    maxima = group_maxima(e, w, e_error, residual, target, SCALE)
    assert bool(torch.isfinite(maxima[[0, 2, 3]]).all())


def test_a_group_of_nothing_but_the_target_and_nan():
    w, _, residual = round_rows(torch.tensor([[1.0, 0.0], [math.nan, 0.0]]))
    e, e_error = round_unit_rows(torch.tensor([[1.0, 0.0]]))
    assert group_maxima(e, w, e_error, residual, torch.tensor([0]), SCALE).tolist() == [[-math.inf]]
    assert group_maxima(e, w[:1], e_error, residual[:1], torch.tensor([0]), SCALE).tolist() == [[-math.inf]]


def test_more_columns_than_a_tile_at_the_ends_of_words():
    """A hit in the first and in the last column of each word and tile, among them the sign bit of a word."""
    columns = sorted({0, 31, 32, 63, 64, 96, 127, 128, 255, 256, 299})
    weight = torch.zeros(300, 2)
    weight[:, 1] = 1.0
    weight[columns] = torch.tensor([1.0, 0.0])
    w, _, residual = round_rows(weight)
    e, e_error = round_unit_rows(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    row, column, pointer = survivors(e, w, e_error, residual, torch.full((3,), 0.5), torch.tensor([31, -1, -1]))
    assert column[row == 0].tolist() == [c for c in columns if c != 31]
    assert column[row == 2].tolist() == columns
    assert column[row == 1].tolist() == sorted(set(range(300)) - set(columns))
    assert pointer.tolist() == [0, 10, 299, 310]


def test_the_same_list_each_time():
    problem = Problem(5, 300, 37)
    bound = problem.cosine.quantile(0.9, 1).float()
    for one, other in zip(problem.survivors(bound), problem.survivors(bound)):
        assert torch.equal(one, other)


def test_rows_that_are_not_padded_are_refused():
    e, w = torch.zeros(2, 37).half(), torch.zeros(3, 37).half()
    error, target = torch.zeros(2), torch.zeros(2).long()
    with pytest.raises(ValueError, match="as round_rows does"):
        group_maxima(e, w, error, torch.zeros(3), target, SCALE)
    with pytest.raises(ValueError, match="as round_rows does"):
        survivors(e, w, error, torch.zeros(3), error, target)


def test_no_rows():
    w, _, residual = round_rows(torch.ones(3, 2))
    e, e_error = round_unit_rows(torch.zeros(0, 2))
    none = torch.zeros(0, dtype=torch.long)
    row, column, pointer = survivors(e, w, e_error, residual, torch.zeros(0), none)
    assert (len(row), len(column), pointer.tolist()) == (0, 0, [0])
    assert group_maxima(e, w, e_error, residual, none, SCALE).shape == (0, 1)


def test_the_references_work_in_blocks_of_rows(monkeypatch):
    problem = Problem(5, 300, 37)
    bound = problem.cosine.quantile(0.9, 1).float()
    arguments = (problem.e, problem.w, problem.e_error, problem.residual)
    whole = [*products.survivors_reference(*arguments, bound, problem.target)]
    whole.append(products.group_maxima_reference(*arguments, problem.target, SCALE))
    monkeypatch.setattr(products, "REFERENCE_ENTRIES", 600)  # two rows
    parts = [*products.survivors_reference(*arguments, bound, problem.target)]
    parts.append(products.group_maxima_reference(*arguments, problem.target, SCALE))
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other)


def test_the_operations_are_what_torch_expects():
    problem = Problem(3, 40, 5)
    arguments = (problem.e, problem.w, problem.e_error, problem.residual)
    opcheck(group_maxima, *arguments, problem.target, SCALE)
    opcheck(survivors, *arguments, torch.full((3,), 0.2), problem.target)
