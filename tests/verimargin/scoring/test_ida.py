import math

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from small_ida import LEFT, RIGHT, SIZE, A, F, M, N, expected, fitted


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


def test_tied_neighbours_count_each():
    anchors = A[[3, 3, 3, 5, 5, 9]]
    for k in (1, 2, 4, 6):
        np.testing.assert_allclose(vm.IDAScorer(anchors, k).density(F), expected(k, 1.0, anchors=anchors)[0])


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
    assert torch.equal(scorer.log_density(f.detach().numpy()), scorer.log_density(f))
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
        (lambda: vm.IDAScorer(A).score(F, F[:1]), ValueError, rf"f1 has shape \({N}, {SIZE}\), f2 \(1, {SIZE}\)"),
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
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_each_side_of_a_batch_has_variances_of_its_own():
    scorer, generator = vm.IDAScorer(A, 4, 1.5), torch.Generator().manual_seed(5)
    f1, f2 = F[:3], F[3:6]
    v1, v2 = (torch.rand(3, SIZE, generator=generator, dtype=torch.float64) + low for low in (0.1, 1.0))
    found = scorer.score(f1, f2, log=True, variance=(v1, v2))
    density1, density2 = (reference.ida_density(f, A, 4, 1.5) for f in (f1, f2))
    unit1, unit2 = (torch.nn.functional.normalize(f) for f in (f1, f2))
    for n in range(3):
        similarity = reference.mutual_likelihood(unit1[n].numpy(), v1[n].numpy(), unit2[n].numpy(), v2[n].numpy())
        assert float(found[n]) == pytest.approx(1.5 * similarity + np.log(density1[n] + density2[n]), rel=1e-6)


def test_the_support_set_is_the_nearest_anchors():
    scorer = vm.IDAScorer(A, k=5, tau=2.0, max_bytes=1000)
    f = F.reshape(1, N, SIZE)
    unit, anchors = (x / x.norm(dim=-1, keepdim=True) for x in (F, A))
    nearest = np.sort((unit @ anchors.T).numpy(), axis=1)[:, -5:]
    found = scorer.support(f)
    assert found.shape == (1, N, 5)
    np.testing.assert_allclose(np.sort(found[0].numpy(), axis=1), nearest, atol=1e-12)
    np.testing.assert_array_equal(scorer.of_support(found), scorer.log_density(f))
