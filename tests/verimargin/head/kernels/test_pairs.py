import math

import pytest
import torch
from kernel_checks import KERNELS_MUST_RUN, opcheck
from torch.nn import functional as F
from verimargin.head.kernels.pairs import pair_logits

pytestmark = KERNELS_MUST_RUN
SCALE = 32.0


def problem(batch, classes, size, pairs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(batch, size, generator=generator))
    weight = torch.randn(classes, size, generator=generator) * 10.0 ** torch.linspace(-8, 8, classes)[:, None]
    row = torch.randint(batch, (pairs,), generator=generator)
    column = torch.randint(classes, (pairs,), generator=generator)
    return unit, weight, torch.linalg.vector_norm(weight, dim=1), row, column


@pytest.mark.parametrize(
    ("batch", "classes", "size", "pairs"), [(1, 1, 1, 1), (5, 30, 37, 61), (3, 7, 300, 100), (2, 9, 512, 16)]
)
def test_no_worse_than_the_naive_product(batch, classes, size, pairs):
    unit, weight, norm, row, column = problem(batch, classes, size, pairs)
    logit = pair_logits(unit, weight, norm, row, column, SCALE)
    true = (unit.double()[row] * weight.double()[column]).sum(1) * SCALE / norm.double()[column]
    naive = ((unit @ weight.T) * (SCALE / norm))[row, column]
    assert logit.dtype == torch.float32
    assert float((logit - true).abs().max()) <= float((naive - true).abs().max()) + 2e-6 * SCALE


def test_nan_and_infinite_rows_stay_so():
    unit, weight, norm, _, _ = problem(2, 3, 5, 1)
    weight[1], norm[1] = math.nan, math.nan
    row, column = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 2])
    logit = pair_logits(unit, weight, norm, row, column, SCALE)
    assert logit.isnan().tolist() == [False, True, True, False]


def test_no_pairs():
    unit, weight, norm, row, column = problem(2, 3, 5, 0)
    assert pair_logits(unit, weight, norm, row, column, SCALE).shape == (0,)


def test_rows_that_are_not_contiguous():
    unit, weight, norm, row, column = problem(4, 6, 10, 20)
    logit = pair_logits(unit[:, ::2], weight[:, ::2], norm, row, column, SCALE)
    expected = pair_logits(unit[:, ::2].contiguous(), weight[:, ::2].contiguous(), norm, row, column, SCALE)
    torch.testing.assert_close(logit, expected, rtol=0, atol=0)


def test_the_operation_is_what_torch_expects():
    opcheck(pair_logits, *problem(2, 3, 5, 7), SCALE)
