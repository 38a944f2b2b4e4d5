import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_ida import A, F, M, N
from verimargin.scoring import neighbours
from verimargin.scoring.neighbours import nearest_cosines


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 12), st.integers(1, M), st.sampled_from([1, 100, 777, 5000, 2**20]), st.sampled_from([3, 16, 61, 99])
)
def test_no_chunk_size_changes_a_score(count, k, max_bytes, anchor_block):
    whole, chunked = vm.IDAScorer(A, k), vm.IDAScorer(A, k, max_bytes=max_bytes)
    before, neighbours.BLOCK = neighbours.BLOCK, anchor_block
    try:
        found = chunked.log_density(F[:count])
    finally:
        neighbours.BLOCK = before
    torch.testing.assert_close(found, whole.log_density(F[:count]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("anchor_block", [16, 8192])
def test_an_identitys_own_anchor_can_be_left_out(anchor_block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", anchor_block)
    own = torch.arange(N) * 2 - 1
    found = vm.IDAScorer(A, 6, max_bytes=16 * 8 * 5).log_density(F, own)
    for n in range(N):
        others = A[torch.arange(M) != own[n]]
        assert float(found[n].exp()) == pytest.approx(reference.ida_density(F[n : n + 1], others, 6, 1.0)[0])
    with pytest.raises(ValueError, match=f"k is {M}, with {M} anchors"):
        vm.IDAScorer(A, M).log_density(F, own)
    with pytest.raises(ValueError, match=r"own holds -1\.\.105"):
        vm.IDAScorer(A).log_density(F, own + 62 * (own == 43))


@pytest.mark.parametrize(("block", "max_bytes"), [(8192, 2**26), (7, 7 * 8 * 4), (61, 1), (1, 10**6)])
@pytest.mark.parametrize("k", [1, 5, M])
def test_equals_sorting_all_cosines(k, block, max_bytes, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    unit, others = (x / x.norm(dim=1, keepdim=True) for x in (F, A))
    own = torch.arange(N) % M - 1 if k < M else None
    expected = (unit @ others.T).numpy()
    if own is not None:
        expected[np.arange(1, N), own[1:]] = -np.inf
    expected = np.sort(expected, axis=1)[:, : -k - 1 : -1]
    found, rows = [], []
    for part, nearest in nearest_cosines(unit, others, k, max_bytes, own):
        assert len(nearest) == len(unit[part])
        assert len(nearest) * min(block, M) * 8 <= max(max_bytes, min(block, M) * 8)
        rows += range(N)[part]
        found.append(nearest.sort(dim=1, descending=True).values)
    assert rows == list(range(N))
    np.testing.assert_allclose(torch.cat(found), expected, atol=1e-12)
