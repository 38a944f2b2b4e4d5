import math

import pytest
import torch
from kernel_checks import KERNELS_MUST_RUN, opcheck
from verimargin._checks import EPS
from verimargin.head.kernels.rounding import padded_size, round_rows, round_unit_rows

pytestmark = KERNELS_MUST_RUN


def rows(count, size, exponent=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * 10.0**exponent


def true_residual(weight, rounded, norm):
    unit = weight.double() / norm.double()[:, None]
    return torch.linalg.vector_norm(unit - rounded[:, : weight.shape[1]].double(), dim=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 37), (33, 64), (9, 200), (3, 512)])
@pytest.mark.parametrize("exponent", [-11, -3, 0, 18])
def test_norms_and_residuals_of_ragged_shapes(shape, exponent):
    weight = rows(*shape, exponent)
    rounded, norm, residual = round_rows(weight)
    true = torch.linalg.vector_norm(weight.double(), dim=1).clamp_min(EPS)
    assert rounded.dtype == torch.float16
    assert rounded.shape == (shape[0], padded_size(weight))
    assert not bool(rounded[:, shape[1] :].any())
    assert float((norm.double() / true - 1.0).abs().max()) < 1e-6
    exact = true_residual(weight, rounded, norm)
    assert bool((residual >= exact).all())
    assert bool((residual <= 1.002 * exact + 3e-7).all())  # and not larger than need be
    assert float(exact.max()) < 2.0**-11


def test_a_norm_below_eps_counts_as_eps():
    weight = rows(5, 37, -16)
    rounded, norm, residual = round_rows(weight)
    assert norm.tolist() == pytest.approx([EPS] * 5)
    assert bool((residual >= true_residual(weight, rounded, norm)).all())
    assert bool((residual < 1e-5).all())


def test_squares_that_float32_cannot_represent():
    """The squares of 1e-21 are 0 in float32, and those of 1e20 are infinite."""
    weight = torch.full((2, 4), 1e20)
    weight[0] = 1e-21
    rounded, norm, _ = round_rows(weight)
    assert norm.tolist() == pytest.approx([EPS, 2e20])
    assert rounded[1, :4].tolist() == [0.5] * 4


def test_the_worst_rounding_is_bounded():
    """Each element lies halfway between two neighbours in float16, and others where float16 is subnormal."""
    halfway = torch.tensor([1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11, 1.0 - 2.0**-12] * 20)
    tiny = torch.full((60,), 2.0**-26 * 1.5)
    weight = torch.stack([halfway / halfway.norm(), torch.cat([torch.ones(1), tiny[1:]])])
    rounded, norm, residual = round_rows(weight)
    exact = true_residual(weight, rounded, norm)
    assert bool((residual >= exact).all())
    assert float(exact[1]) > 1e-7


def test_a_zero_row_has_the_norm_eps():
    rounded, norm, residual = round_rows(torch.zeros(3, 5))
    assert not bool(rounded.any())
    assert norm.tolist() == pytest.approx([EPS] * 3)
    assert bool((residual < 1e-6).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_row_without_a_finite_norm_cannot_be_excluded(bad):
    weight = rows(4, 6)
    weight[2, 1:3] = bad
    weight[2, 5] = bad
    rounded, norm, residual = round_rows(weight)
    assert not bool(torch.isfinite(norm[2]))
    assert residual[2] == math.inf
    assert bool(torch.isfinite(rounded).all())
    assert bool(torch.isfinite(norm[[0, 1, 3]]).all())
    assert float(residual[[0, 1, 3]].max()) < 1e-3


def test_rows_that_are_not_contiguous():
    weight = rows(12, 10)
    for one, other in zip(round_rows(weight[::3, ::2]), round_rows(weight[::3, ::2].contiguous())):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_float64_rows_keep_their_dtype_in_the_norms():
    weight = rows(5, 9).double()
    rounded, norm, residual = round_rows(weight)
    assert (norm.dtype, residual.dtype) == (torch.float64, torch.float64)
    assert bool((residual >= true_residual(weight, rounded, norm)).all())


def test_embeddings_are_rounded_as_they_are():
    unit = torch.nn.functional.normalize(rows(7, 100))
    rounded, error = round_unit_rows(unit)
    exact = torch.linalg.vector_norm(unit.double() - rounded[:, :100].double(), dim=1)
    assert rounded.shape == (7, 128)
    assert bool((error >= exact).all())
    assert bool((error <= 1.002 * exact).all())


def test_no_rows():
    rounded, norm, residual = round_rows(torch.zeros(0, 5))
    assert (len(rounded), len(norm), len(residual)) == (0, 0, 0)


def test_the_operation_is_what_torch_expects():
    opcheck(round_rows, rows(5, 7))
