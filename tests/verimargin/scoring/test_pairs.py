import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_ida import LEFT, RIGHT, SIZE, A, F, N, expected, listed_of
from verimargin.scoring import ida, pairs


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), max_size=120),
    st.booleans(),
    st.sampled_from([1, 200, 5000, 2**20]),
    st.sampled_from([0, 10**6]),
)
def test_pairs_are_scored_one_by_one_or_by_products(listed, ordered, max_bytes, advantage):
    """Both ways, for lists that are sorted, not, empty, with pairs twice, of an embedding with itself."""
    i, j = torch.tensor(sorted(listed) if ordered else listed, dtype=torch.long).view(-1, 2).T
    unit = ida.unit_rows(F, "")
    before, pairs.PRODUCT_ADVANTAGE = pairs.PRODUCT_ADVANTAGE, advantage
    try:
        found = pairs.cosine_pairs(unit, i, j, max_bytes)
    finally:
        pairs.PRODUCT_ADVANTAGE = before
    torch.testing.assert_close(found, torch.tensor([float(unit[a] @ unit[b]) for a, b in listed_of(i, j)]).double())


def test_gaussian_embeddings_score_by_their_mutual_likelihood():
    variance = torch.rand(N, SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 0.2 + 0.01
    unit, scorer = F / F.norm(dim=1, keepdim=True), vm.IDAScorer(A, 5, tau=0.7)
    mean, var = unit.numpy(), variance.numpy()
    similarity = [reference.mutual_likelihood(mean[a], var[a], mean[b], var[b]) for a, b in listed_of(LEFT, RIGHT)]
    density = expected(5, 0.7)[0]
    log_dao = 0.7 * np.array(similarity) + np.log(density[LEFT] + density[RIGHT])
    for scores in (
        scorer.score(F[LEFT], F[RIGHT], log=True, variance=(variance[LEFT], variance[RIGHT])),
        scorer.score_pairs(F, LEFT, RIGHT, log=True, variance=variance),
        vm.IDAScorer(A, 5, tau=0.7, max_bytes=1).score_pairs(F, LEFT, RIGHT, log=True, variance=variance),
    ):
        np.testing.assert_allclose(scores, log_dao, rtol=1e-7)
    single = scorer.to(torch.float32).score_pairs(F.float(), LEFT, RIGHT, log=True, variance=variance.float())
    np.testing.assert_allclose(single, log_dao, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("max_bytes", [1, 1000, 2**26])
def test_gaussian_pairs_in_blocks_equal_each_by_itself(max_bytes):
    unit = F / F.norm(dim=1, keepdim=True)
    variance = torch.linspace(0.01, 0.3, N * SIZE, dtype=torch.float64).view(N, SIZE)
    found = pairs.mutual_likelihood_pairs(unit, variance, LEFT, RIGHT, max_bytes)
    for n in (0, 70, 149):
        (a, b), (mean, var) = (int(LEFT[n]), int(RIGHT[n])), (unit.numpy(), variance.numpy())
        assert float(found[n]) == pytest.approx(reference.mutual_likelihood(mean[a], var[a], mean[b], var[b]), rel=1e-7)
    each = pairs.mutual_likelihood(unit[LEFT], variance[LEFT], unit[RIGHT], variance[RIGHT])
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((0, 10, 4), [(0, 4), (4, 8), (8, 10)]), ((3, 5, 0), [(3, 4), (4, 5)]), ((2, 2, 9), []), ((1, 3, 9), [(1, 3)])],
)
def test_slices(arguments, expected):
    assert [(part.start, part.stop) for part in pairs.slices(*arguments)] == expected
