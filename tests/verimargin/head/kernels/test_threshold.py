import itertools
import math

import pytest
import reference
import torch
from kernel_checks import KERNELS_MUST_RUN, opcheck
from torch.nn import functional as F
from verimargin import alpha_divergence_loss, alpha_softargmax
from verimargin.head.kernels.threshold import BLOCK, probabilities, threshold

pytestmark = KERNELS_MUST_RUN
ALPHAS = [1.01, 1.25, 1.5, 2.0, 3.0, 8.0]
COUNTS = [0, 1, BLOCK + 3, 50, 2, 0, 9]


def problem(log_q, counts):
    """Logits of rows of different lengths, and targets above and below them."""
    generator = torch.Generator().manual_seed(0)
    pointer = torch.tensor([0, *counts]).cumsum(0)
    logit = 5.0 * torch.randn(int(pointer[-1]), generator=generator)
    target_logit = 5.0 * torch.randn(len(counts), generator=generator)
    return logit, pointer, target_logit, torch.full((len(counts),), log_q)


def whole_rows(logit, pointer, target_logit, log_q):
    """Each row as (its logits in float64, the target first, and their log q)."""
    for i in range(len(target_logit)):
        z = torch.cat([target_logit[i : i + 1], logit[pointer[i] : pointer[i + 1]]]).double()
        yield z, F.pad(log_q[i : i + 1].double(), (0, len(z) - 1))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("log_q", [-0.8, -20.0])
def test_tau_probabilities_and_loss_of_each_row(alpha, log_q):
    arguments = problem(log_q, COUNTS)
    arguments[0][-2:] = arguments[0][-3]  # ties
    arguments[0][arguments[1][3]] = -math.inf  # a class that is left out
    tau = threshold(*arguments, alpha)
    p, residual, loss, active = probabilities(*arguments, alpha)
    for i, (z, q) in enumerate(whole_rows(*arguments)):
        true_p, true_tau = alpha_softargmax(z[None], alpha, q)
        true_loss = alpha_divergence_loss(z[None], torch.tensor([0]), alpha, q[0])
        true_tau, true_loss = true_tau.float(), true_loss.float()  # infinite for the smallest q and the largest alpha
        entries = slice(int(arguments[1][i]), int(arguments[1][i + 1]))
        assert float(tau[i]) == pytest.approx(float(true_tau), rel=2e-7, abs=2e-6)
        assert float(loss[i]) == pytest.approx(float(true_loss), rel=1e-6, abs=1e-9)
        torch.testing.assert_close(p[entries].double(), true_p[0, 1:], rtol=2e-6, atol=1e-9)
        assert float(residual[i]) == pytest.approx(float(true_p[0, 0]) - 1.0, rel=1e-5, abs=1e-9)
        if alpha <= 2.0:  # above, rounding decides whether a class at the threshold has p = 0
            assert int(active[i]) == int((true_p[0].float() > 0).sum())


@pytest.mark.parametrize("alpha", [1.25, 2.0, 3.0])
def test_against_the_bisection_of_the_reference(alpha):
    arguments = problem(-2.0, [5, 40])
    tau = threshold(*arguments, alpha)
    for i, (z, q) in enumerate(whole_rows(*arguments)):
        _, expected = reference.softargmax(z.numpy(), alpha, q.numpy())
        assert float(tau[i]) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("alpha", [1.1, 1.5, 3.0])
def test_tau_of_a_part_is_a_lower_bound(alpha):
    logit, pointer, target_logit, log_q = problem(-2.0, [200, 300, 90])
    kept = torch.arange(len(logit)) % 7 < 2
    counts = [int(kept[a:b].sum()) for a, b in itertools.pairwise(pointer)]
    part = threshold(logit[kept], torch.tensor([0, *counts]).cumsum(0), target_logit, log_q, alpha)
    lowered = threshold(logit - 0.01, pointer, target_logit, log_q, alpha)
    tau = threshold(logit, pointer, target_logit, log_q, alpha)
    assert bool((part <= tau).all())
    assert bool((part < tau).any())
    assert bool((lowered <= tau).all())
    assert bool((lowered >= tau - 0.0101).all())


def test_a_lone_target_has_no_loss_however_small_its_mass():
    arguments = problem(-60.0, [0, 0])
    p, residual, loss, active = probabilities(*arguments, 1.5)
    assert (len(p), residual.tolist(), loss.tolist(), active.tolist()) == (0, [0, 0], [0, 0], [1, 1])


@pytest.mark.parametrize("alpha", [1.25, 1.5, 3.0])
@pytest.mark.parametrize("log_q", [-1.0, -6.4, -12.0])
def test_a_target_whose_own_threshold_is_the_highest(alpha, log_q):
    """The other classes take a little from a target whose q is tiny: without q in the power, no digits are left."""
    ln_q = math.expm1((1.0 - alpha) * log_q) / (1.0 - alpha)
    logit = torch.tensor([0.0, -0.1, -0.05, -3.0])
    target_logit, pointer, log_q = torch.tensor([0.2 - ln_q]), torch.tensor([0, 4]), torch.tensor([log_q])
    tau = threshold(logit, pointer, target_logit, log_q, alpha)
    p, _, loss, _ = probabilities(logit, pointer, target_logit, log_q, alpha)
    ((z, q),) = whole_rows(logit, pointer, target_logit, log_q)
    true_loss = alpha_divergence_loss(z[None], torch.tensor([0]), alpha, q[0])
    true_p, true_tau = alpha_softargmax(z[None], alpha, q)
    assert float(tau) == pytest.approx(float(true_tau), rel=2e-7, abs=1e-6)
    assert float(loss) == pytest.approx(float(true_loss), rel=1e-5)
    torch.testing.assert_close(p.double(), true_p[0, 1:], rtol=1e-4, atol=1e-9)


def test_the_residual_of_an_easy_sample_keeps_its_digits():
    """p_y is 1 in float32 here, but the sample still teaches a little."""
    logit, target_logit, log_q = torch.tensor([-3.99]), torch.tensor([0.0]), torch.tensor([0.0])
    p, residual, loss, active = probabilities(logit, torch.tensor([0, 1]), target_logit, log_q, 1.25)
    assert 0 < float(p[0]) < 1e-8
    assert float(residual) == -float(p[0])
    assert 0 < float(loss) < 1e-8
    assert int(active) == 2


def test_nan_reaches_the_loss_of_its_own_row_only():
    logit, pointer, target_logit, log_q = problem(-1.0, [3, 3, 3])
    logit[4], target_logit[2] = math.nan, math.nan
    tau = threshold(logit, pointer, target_logit, log_q, 1.5)
    p, _, loss, _ = probabilities(logit, pointer, target_logit, log_q, 1.5)
    assert tau.isnan().tolist() == [False, True, True]
    assert loss.isnan().tolist() == [False, True, True]
    assert bool(torch.isfinite(p[:3]).all())


def test_no_rows():
    none = torch.zeros(0)
    assert threshold(none, torch.zeros(1).long(), none, none, 1.5).shape == (0,)
    assert [len(x) for x in probabilities(none, torch.zeros(1).long(), none, none, 1.5)] == [0] * 4


def test_the_operations_are_what_torch_expects():
    arguments = problem(-1.0, [2, 0, 4])
    opcheck(threshold, *arguments, 1.5)
    opcheck(probabilities, *arguments, 1.5)
