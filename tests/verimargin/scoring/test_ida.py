import math

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from hypothesis import given, settings
from hypothesis import strategies as st
from verimargin.scoring import ida, neighbours, pairs

N, M, SIZE = 23, 61, 13


def rows(count, seed, size=SIZE, clusters=7):
    """Embeddings of unlike norms around a few common directions, so that some have near neighbours."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(clusters, size, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    which = torch.randint(clusters, (count,), generator=generator)
    noise = torch.randn(count, size, generator=generator, dtype=torch.float64)
    length = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 30 + 0.01
    return length * (centre[which] + torch.linspace(0.2, 2, count, dtype=torch.float64)[:, None] * noise)


F, A = rows(N, 0), rows(M, 1)
LEFT, RIGHT = torch.randint(N, (2, 150), generator=torch.Generator().manual_seed(2))


def expected(k, tau, f=F, anchors=A, i=LEFT, j=RIGHT):
    density = reference.ida_density(f, anchors, k, tau)
    dao = [reference.dao(f[a], f[b], density[a], density[b], tau) for a, b in zip(i.tolist(), j.tolist())]
    return density, np.array(dao)


def fitted(k=4, tau=1.5, **options):
    regressor = vm.SupportSetRegressor(SIZE, hidden=32, k=k, tau=tau, **options)
    regressor.fit(F.float(), vm.IDAScorer(A, k, tau).density(F.float()), epochs=20, batch_size=8)
    return regressor


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("k", "tau"), [(10, 1.0), (1, 1.0), (M, 0.3), (7, 12.0)])
def test_equals_the_formulas(k, tau, dtype, tolerance):
    scorer, f = vm.IDAScorer(A.to(dtype), k, tau), F.to(dtype)
    density, dao = expected(k, tau)
    assert scorer.density(f).dtype == dtype
    np.testing.assert_allclose(scorer.density(f), density, rtol=tolerance)
    np.testing.assert_allclose(scorer.log_density(f), np.log(density), rtol=0, atol=tolerance * tau)
    for scores in (scorer.score(f[LEFT], f[RIGHT]), scorer.score_pairs(f, LEFT, RIGHT)):
        assert scores.dtype == dtype
        np.testing.assert_allclose(scores, dao, rtol=tolerance * max(tau, 1))
    for scores in (scorer.score(f[LEFT], f[RIGHT], log=True), scorer.score_pairs(f, LEFT, RIGHT, log=True)):
        np.testing.assert_allclose(scores, np.log(dao), rtol=0, atol=tolerance * tau)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_computed_in_float32(dtype, tolerance):
    f, anchors = F.to(dtype), A.to(dtype)
    scorer = vm.IDAScorer(anchors, 5)
    density, dao = expected(5, 1.0, f.double(), anchors.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, regressed = scorer.score_pairs(f, LEFT, RIGHT), fitted().log_density(f)
        assert scorer.density(f).dtype == scores.dtype == torch.float32
    np.testing.assert_allclose(scorer.density(f), density, rtol=1e-5)  # of the rounded embeddings
    np.testing.assert_allclose(scores, dao, rtol=1e-5)
    np.testing.assert_allclose(scores, expected(5, 1.0)[1], rtol=tolerance)
    torch.testing.assert_close(regressed, fitted().log_density(f), rtol=0, atol=0)


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


def listed_of(i, j):
    return list(zip(i.tolist(), j.tolist()))


def test_tied_neighbours_count_each():
    anchors = A[[3, 3, 3, 5, 5, 9]]
    for k in (1, 2, 4, 6):
        np.testing.assert_allclose(vm.IDAScorer(anchors, k).density(F), expected(k, 1.0, anchors=anchors)[0])


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


@pytest.mark.parametrize("tau", [150.0, 5000.0])
def test_a_large_tau_has_only_logarithmic_scores(tau):
    """They neither overflow nor vanish, and the error tells to take them."""
    scorer = vm.IDAScorer(A.float(), 5, tau)
    with pytest.raises(ValueError, match=rf"DAO of e\^.* beyond float32 at tau {tau:g}: take log=True"):
        scorer.score_pairs(F.float(), LEFT, RIGHT)
    with pytest.raises(ValueError, match=r"beyond float32 at tau .* log_density"):
        scorer.density(F.float())
    unit, anchors = (x / x.norm(dim=1, keepdim=True) for x in (F, A))
    nearest = tau * (unit @ anchors.T).sort(dim=1).values[:, -5:]
    log_density = -(nearest.amax(1) + (nearest - nearest.amax(1, keepdim=True)).exp().sum(1).log())
    larger = torch.maximum(log_density[LEFT], log_density[RIGHT])
    both = larger + ((log_density[LEFT] - larger).exp() + (log_density[RIGHT] - larger).exp()).log()
    wanted = tau * (unit[LEFT] * unit[RIGHT]).sum(1) + both
    torch.testing.assert_close(
        scorer.score_pairs(F.float(), LEFT, RIGHT, log=True).double(), wanted, rtol=1e-5, atol=1e-6 * tau
    )
    torch.testing.assert_close(
        scorer.score(F.float()[LEFT], F.float()[RIGHT], log=True).double(), wanted, rtol=1e-5, atol=1e-6 * tau
    )


@pytest.mark.parametrize("make", [lambda: vm.IDAScorer(A, 4, 1.5), fitted])
def test_both_scorers_score_alike(make, monkeypatch):
    """One density an embedding, shapes of any rank, densities handed in, NumPy positions, state, no gradient."""
    scorer, f = make(), F.float().requires_grad_()
    wanted = torch.exp(1.5 * torch.cosine_similarity(f[LEFT], f[RIGHT])) * (
        scorer.density(f)[LEFT] + scorer.density(f)[RIGHT]
    )
    torch.testing.assert_close(scorer.score_pairs(f, LEFT, RIGHT), wanted.detach())
    torch.testing.assert_close(
        scorer.score(f[LEFT].view(50, 3, SIZE), f[RIGHT].view(50, 3, SIZE)).flatten(), wanted.detach()
    )
    torch.testing.assert_close(scorer.score(f[0], f[RIGHT][:5]), scorer.score_pairs(f, torch.zeros(5).int(), RIGHT[:5]))
    assert not scorer.score_pairs(f, LEFT, RIGHT).requires_grad
    seen, forward = [], scorer.forward
    monkeypatch.setattr(scorer, "forward", lambda unit: seen.append(len(unit)) or forward(unit))
    scorer.score_pairs(f, LEFT, RIGHT)
    assert seen == [N]
    doubled = scorer.log_density(f) + math.log(2.0)
    torch.testing.assert_close(
        scorer.score_pairs(f, LEFT.numpy(), RIGHT.numpy(), log_density=doubled), 2 * wanted.detach()
    )
    assert scorer.log_density(f[:0]).shape == (0,)
    assert scorer.score_pairs(f, LEFT[:0], RIGHT[:0]).shape == (0,)


def test_state_dicts_hold_all_that_a_score_depends_on():
    other = vm.IDAScorer(A.flip(0).float(), 9, 3.0)
    other.load_state_dict(vm.IDAScorer(A.float(), 4, 1.5).state_dict())
    assert torch.equal(other.score_pairs(F, LEFT, RIGHT), vm.IDAScorer(A.float(), 4, 1.5).score_pairs(F, LEFT, RIGHT))
    regressor = vm.SupportSetRegressor(SIZE, 32)
    regressor.load_state_dict(fitted().state_dict())
    assert torch.equal(regressor.score_pairs(F, LEFT, RIGHT), fitted().score_pairs(F, LEFT, RIGHT))
    assert (regressor.k, regressor.tau) == (4, 1.5)
    with pytest.raises(RuntimeError, match="size mismatch for anchors"):
        other.load_state_dict(vm.IDAScorer(A[:40].float()).state_dict())


class TestRegressor:
    def test_learns_the_density_of_embeddings_it_has_not_seen(self):
        f, scorer = (
            rows(3000, 3)[torch.randperm(3000, generator=torch.Generator().manual_seed(0))],
            vm.IDAScorer(rows(400, 4), k=10, tau=2.0),
        )
        regressor, history = vm.SupportSetRegressor(SIZE, 128, tau=2.0), []
        fit = regressor.fit(
            f[:2500].float(), scorer.density(f[:2500]), epochs=60, on_epoch=lambda *epoch: history.append(epoch)
        )
        truth = scorer.log_density(f[2500:])
        error = float((regressor.log_density(f[2500:]) - truth).square().mean() / truth.var())
        assert error < 0.2
        assert fit.held_out_error == pytest.approx(error, rel=0.5)
        assert [epoch for epoch, *_ in history] == list(range(1, fit.epochs + 1))
        assert fit.held_out_error == min(error for *_, error in history)
        assert history[fit.best_epoch - 1][2] == fit.held_out_error

    def test_stops_early_and_keeps_the_best_epoch(self):
        """Densities that nothing predicts: the held-out error soon rises."""
        noise = torch.rand(60, generator=torch.Generator().manual_seed(0)) + 0.5
        short, long = vm.SupportSetRegressor(SIZE, 64), vm.SupportSetRegressor(SIZE, 64)
        fit = long.fit(rows(60, 5).float(), noise, held_out=0.3, patience=4, learning_rate=0.01)
        assert fit.epochs == fit.best_epoch + 4 < 200
        short.fit(rows(60, 5).float(), noise, held_out=0.3, learning_rate=0.01, epochs=fit.best_epoch)
        assert torch.equal(short.linear1.weight, long.linear1.weight)

    def test_a_seed_gives_the_same_weights_whatever_came_before(self):
        torch.manual_seed(1)
        first = fitted().state_dict()
        torch.manual_seed(2)
        before = torch.get_rng_state()
        second = vm.SupportSetRegressor(SIZE, 32, 4, 1.5)
        torch.set_rng_state(before)
        second.fit(F.float(), vm.IDAScorer(A, 4, 1.5).density(F.float()), epochs=20, batch_size=8)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(second.state_dict()[key], first[key]) for key in ("linear1.weight", "linear2.weight"))

    def test_alike_densities_are_predicted_as_they_are(self):
        regressor = vm.SupportSetRegressor(SIZE, 8)
        regressor.fit(F.float(), torch.full((N,), 0.25), epochs=300, learning_rate=0.01, patience=300)
        torch.testing.assert_close(regressor.density(F.float()), torch.full((N,), 0.25), atol=0.02, rtol=0)


ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vm.IDAScorer(A, k=M + 1), ValueError, f"k is {M + 1}, but there are {M} anchors: lower k"),
        (lambda: vm.IDAScorer(A, k=0), ValueError, "k is 0: give an integer >= 1"),
        (lambda: vm.IDAScorer(A, k=2.5), ValueError, r"k is 2\.5"),
        (lambda: vm.IDAScorer(A, tau=0.0), ValueError, r"tau is 0\.0: give a finite number > 0"),
        (lambda: vm.IDAScorer(A, tau=-1.0), ValueError, r"tau is -1\.0"),
        (lambda: vm.IDAScorer(A, tau=math.inf), ValueError, "tau is inf"),
        (lambda: vm.IDAScorer(A, max_bytes=0), ValueError, "max_bytes is 0"),
        (lambda: vm.IDAScorer(A[:0]), ValueError, rf"shape \(0, {SIZE}\): .* at least one"),
        (lambda: vm.IDAScorer(A[0]), ValueError, r"give floating-point \(anchors, d\)"),
        (lambda: vm.IDAScorer(A.long()), ValueError, r"anchors are torch\.int64"),
        (lambda: vm.IDAScorer(A * (torch.arange(M) != 4)[:, None]), ValueError, "anchor 4 has norm 0 "),
        (lambda: vm.IDAScorer(A).density(F[:, :-1]), ValueError, rf"shape \({N}, {SIZE - 1}\): .*, {SIZE}\)"),
        (lambda: vm.IDAScorer(A).density(F.log()), ValueError, r"embedding of sample 0 \(and 22 more\) has norm nan"),
        (lambda: vm.IDAScorer(A).score(F, F * (torch.arange(N) != 7)[:, None]), ValueError, "sample 7 has norm 0"),
        (
            lambda: vm.IDAScorer(A).score_pairs(F / (torch.arange(N) - 3)[:, None], LEFT, RIGHT),
            ValueError,
            "sample 3 .* inf",
        ),
        (lambda: vm.IDAScorer(A).score_pairs(F, LEFT, RIGHT[:9]), ValueError, r"shapes \(150,\) and \(9,\)"),
        (
            lambda: vm.IDAScorer(A).score_pairs(F, LEFT, RIGHT + LEFT.eq(LEFT[5]) * N),
            ValueError,
            f"j of pair . is .* {N} embed",
        ),
        (lambda: vm.IDAScorer(A).score_pairs(F, -LEFT - 1, RIGHT), ValueError, r"i of pair 0 is -.* 0\.\.22"),
        (
            lambda: vm.IDAScorer(A).score_pairs(F, LEFT / 2, RIGHT),
            ValueError,
            r"i has dtype torch\.float32: give positions",
        ),
        (
            lambda: vm.IDAScorer(A).score_pairs(F, LEFT, RIGHT, log_density=F[0]),
            ValueError,
            rf"\({SIZE},\): .* \({N},\)",
        ),
        (
            lambda: vm.IDAScorer(A).score_pairs(F, LEFT, RIGHT, variance=F[0]),
            ValueError,
            r"variances have shape \(13,\)",
        ),
        (
            lambda: vm.IDAScorer(A).score_pairs(F, LEFT, RIGHT, variance=torch.zeros_like(F)),
            ValueError,
            "a variance is 0: give positive",
        ),
        (lambda: vm.IDAScorer(A.to("meta")[:0]), ValueError, "at least one"),
        (lambda: vm.SupportSetRegressor(SIZE, 0), ValueError, "hidden is 0"),
        (lambda: vm.SupportSetRegressor(SIZE, 8, tau=0), ValueError, r"tau is 0\.0"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).score(F, F), RuntimeError, r"not fitted: call fit\(\)"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES[:3]), ValueError, r"densities \(3,\)"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:1], ONES[:1]), ValueError, "N at least 2"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], 0 * ONES), ValueError, "density 0 is 0: give positive"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES, held_out=1), ValueError, r"held_out is 1\.0"),
        (lambda: vm.SupportSetRegressor(SIZE, 8).fit(F[:4], ONES, patience=0), ValueError, "patience 0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
