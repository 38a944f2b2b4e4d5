import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verimargin.head import product
from verimargin.head.product import GROUP, Product, entries_above, pair_products


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 7),
    st.sampled_from([1, 5, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP, 3 * GROUP + 17]),
    st.floats(-2.0, 3.0),
    st.integers(0, 1000),
)
def test_entries_above_a_bound_are_those_of_nonzero(rows, columns, level, seed):
    """Ragged shapes, a bound of its own for each row, ties with it included."""
    generator = torch.Generator().manual_seed(seed)
    logit = torch.randn(rows, columns, generator=generator).mul(4).round() / 4
    bound = torch.full((rows, 1), round(4 * level) / 4) + torch.arange(rows)[:, None] / 4
    row, column, value = entries_above(logit, bound)
    assert torch.equal(value, logit[row, column])
    found = sorted(zip(row.tolist(), column.tolist()))
    expected = [(r, c) for r in range(rows) for c in range(columns) if logit[r, c] > bound[r, 0]]
    assert found == expected


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.sampled_from([1, GROUP, GROUP + 1, 4 * GROUP]), st.integers(0, 1000))
def test_entries_above_a_bound_for_each_group(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    logit = torch.randn(rows, columns, generator=generator)
    bound = torch.randn(rows, -(-columns // GROUP), generator=generator)
    row, column, value = entries_above(logit, bound)
    assert torch.equal(value, logit[row, column])
    found = sorted(zip(row.tolist(), column.tolist()))
    expected = [(r, c) for r in range(rows) for c in range(columns) if logit[r, c] > bound[r, c // GROUP]]
    assert found == expected


def small(dtype=torch.float64, classes=70):
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(5, 9, generator=generator, dtype=torch.float64)).to(dtype)
    weight = torch.randn(classes, 9, generator=generator, dtype=torch.float64).to(dtype)
    return unit, weight, weight.norm(dim=1)


def test_logits_of_chunks_and_of_pairs():
    unit, weight, norm = small()
    logits = 3.0 * unit @ torch.nn.functional.normalize(weight).T
    products = Product(unit, weight, norm, 3.0, 40)
    torch.testing.assert_close(products(0, 40), logits[:, :40])
    torch.testing.assert_close(products(40, 70), logits[:, 40:])
    row, column = torch.tensor([0, 0, 3, 4]), torch.tensor([69, 2, 5, 0])
    torch.testing.assert_close(products.pairs(row, column), logits[row, column])
    assert len(products.pairs(row[:0], column[:0])) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_gathered_in_pieces_equal_the_sparse_product(dtype, monkeypatch):
    """Devices without a sparse product gather the rows; a meta tensor would not compute, so the CPU plays one."""
    unit, weight, _ = small(dtype)
    row, column = (torch.rand(5, 70) > 0.5).nonzero(as_tuple=True)
    expected = pair_products(unit, weight, row, column)
    monkeypatch.setattr(product, "PAIRS", 16)
    torch.testing.assert_close(product.gathered_products(unit, weight, row, column), expected)
    torch.testing.assert_close(expected, (unit @ weight.T)[row, column])


def test_sparse_products_warn_of_nothing():
    unit, weight, _ = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair_products(unit, weight, torch.tensor([0]), torch.tensor([1]))
