import math

import pytest
import torch
from kernel_checks import KERNELS_MUST_RUN, opcheck
from torch.nn import functional as F
from verimargin.head.kernels import gradients as module
from verimargin.head.kernels.gradients import embedding_gradients, prototype_gradients

pytestmark = KERNELS_MUST_RUN
PIECE = 32  # in the tests of long segments


def problem(batch, classes, size, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(batch, size, generator=generator))
    weight = torch.randn(classes, size, generator=generator) * (0.1 + torch.rand(classes, 1, generator=generator))
    row = torch.randint(batch, (entries,), generator=generator)
    column = torch.randint(classes, (entries,), generator=generator)
    return unit, weight, row, column, torch.randn(entries, generator=generator)


def gradients(unit, weight, row, column, slope):
    norm = torch.linalg.vector_norm(weight, dim=1)
    return (
        embedding_gradients(weight, norm, row, column, slope, len(unit)),
        prototype_gradients(unit, weight, norm, row, column, slope),
    )


def derivatives(unit, weight, row, column, slope):
    """By autograd, in float64, through the cosines as a function of unit embeddings and of prototypes of any norm."""
    unit, weight = unit.double().requires_grad_(), weight.double().requires_grad_()
    cosine = (unit[row] * F.normalize(weight)[column]).sum(1)
    return torch.autograd.grad((slope.double() * cosine).sum(), (unit, weight))


def assert_close(found, expected, scale=1.0):
    for one, other in zip(found, expected):
        assert float((one - other).abs().max()) <= 1e-6 * scale * (1.0 + float(other.abs().max()))


@pytest.mark.parametrize(
    ("batch", "classes", "size", "entries"),
    [(1, 1, 1, 1), (5, 30, 37, 60), (7, 9, 64, 1000), (3, 12, 300, 0), (2, 3, 512, 50)],
)
def test_both_gradients_are_the_derivatives(batch, classes, size, entries):
    arguments = problem(batch, classes, size, entries)
    assert_close(gradients(*arguments), derivatives(*arguments), 10.0)


@pytest.mark.parametrize("start", [0, 1, PIECE - 1, PIECE, PIECE + 1])
@pytest.mark.parametrize("length", [PIECE - 1, PIECE, 2 * PIECE, 19 * PIECE + 17])
def test_segments_that_begin_and_end_anywhere_in_the_pieces(start, length, monkeypatch):
    """`start` entries of class 0 lie before the long segment of class 1, and three of class 3 after it."""
    monkeypatch.setattr(module, "PIECE", PIECE)
    column = torch.cat([torch.zeros(start), torch.ones(length), torch.full((3,), 3.0)]).long()
    unit, weight, row, _, slope = problem(4, 5, 3, len(column))
    shuffled = torch.randperm(len(column), generator=torch.Generator().manual_seed(1))
    arguments = (unit, weight, row[shuffled], column[shuffled], slope[shuffled])
    assert_close(gradients(*arguments), derivatives(*arguments), 20.0)


def test_a_long_sum_of_one_sign_keeps_its_digits():
    """A float32 sum of so many equal terms, one after the other, is off by 3e-5."""
    count = 10_000
    unit, weight = torch.tensor([[0.6, 0.8]]), torch.tensor([[0.3, 0.1]])
    row = column = torch.zeros(count, dtype=torch.long)
    slope = torch.full((count,), 0.1)
    for one, other in zip(gradients(unit, weight, row, column, slope), derivatives(unit, weight, row, column, slope)):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=0)


def test_entries_without_a_slope_are_not_read():
    unit, weight, row, column, slope = problem(4, 6, 5, 40)
    slope[(column == 2) | (row == 3)] = 0.0
    expected = derivatives(unit, weight, row, column, slope)
    unit[3] = math.nan
    found = prototype_gradients(unit, weight, torch.linalg.vector_norm(weight, dim=1), row, column, slope)
    assert_close([found], [expected[1]], 10.0)


def test_classes_and_rows_without_entries_get_zeros():
    unit, weight, _, _, _ = problem(4, 6, 5, 0)
    of_unit, of_weight = gradients(unit, weight, torch.tensor([1, 1]), torch.tensor([4, 2]), torch.tensor([1.0, 2.0]))
    assert of_unit.any(1).tolist() == [False, True, False, False]
    assert of_weight.any(1).tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize("exponent", [-12, -6, 6, 15])
def test_huge_and_tiny_norms(exponent):
    unit, weight, row, column, slope = problem(4, 6, 5, 40)
    of_unit, of_weight = gradients(unit, weight, row, column, slope)
    factor = 10.0**exponent
    scaled_unit, scaled_weight = gradients(unit, weight * factor, row, column, slope)
    torch.testing.assert_close(scaled_unit, of_unit, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled_weight * factor, of_weight, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_prototype_is_orthogonal_to_it():
    arguments = problem(5, 30, 37, 400)
    _, of_weight = gradients(*arguments)
    along = (of_weight * arguments[1]).sum(1) / (of_weight.norm(dim=1) * arguments[1].norm(dim=1)).clamp_min(1e-12)
    assert float(along.abs().max()) < 1e-6


def test_equal_lists_give_equal_bits():
    arguments = problem(5, 3, 37, 300)
    for one, other in zip(gradients(*arguments), gradients(*arguments)):
        assert torch.equal(one, other)


def test_the_operations_are_what_torch_expects():
    unit, weight, row, column, slope = problem(2, 3, 5, 7)
    norm = torch.linalg.vector_norm(weight, dim=1)
    opcheck(embedding_gradients, weight, norm, row, column, slope, 2)
    opcheck(prototype_gradients, unit, weight, norm, row, column, slope)
