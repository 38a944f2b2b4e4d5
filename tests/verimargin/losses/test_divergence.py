import math

import pytest
import reference
import torch
import verimargin as vm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from verimargin.losses import divergence

ALPHAS = [1.0, 1.0 + 1e-6, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 4.0]


def confusable_rows(rows, classes, dtype, spread=4.0, seed=0):
    """Logits in which a few classes stand out, as in training, so that the distributions are not flat."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[:, ::7] += spread
    return logits.to(dtype), torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", [(6, 64), (5, 37)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_softargmax_equals_bisection(alpha, shape, dtype, tolerance):
    logits, _ = confusable_rows(*shape, dtype)
    log_q = torch.linspace(-3, 1, shape[1], dtype=dtype)
    for q in (None, log_q, log_q.expand(shape)):
        p, tau = vm.alpha_softargmax(logits, alpha, q)
        for row in range(shape[0]):
            expected_p, expected_tau = reference.softargmax(
                logits[row].double(), alpha, 0 * log_q if q is None else log_q.double()
            )
            torch.testing.assert_close(
                p[row].double(), torch.tensor(expected_p, dtype=torch.float64), atol=tolerance, rtol=0
            )
            assert float(tau[row]) == pytest.approx(expected_tau, abs=20 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
@pytest.mark.parametrize("shape", [(6, 64), (5, 37)])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("log_q", [0.0, -2.0, 0.5])
def test_loss_equals_its_definition(alpha, shape, dtype, tolerance, log_q):
    logits, target = confusable_rows(*shape, dtype)
    losses = vm.alpha_divergence_loss(logits, target, alpha, log_q, reduction="none")
    expected = [reference.loss(row.double(), int(y), alpha, log_q) for row, y in zip(logits, target)]
    scale = math.exp((alpha - 1) * abs(log_q)) / alpha  # of the constant term, whose rounding it shares
    torch.testing.assert_close(
        losses.double(), torch.tensor(expected, dtype=torch.float64), atol=tolerance * max(1, scale), rtol=tolerance
    )
    mean = vm.alpha_divergence_loss(logits, target, alpha, torch.full(target.shape, log_q))
    torch.testing.assert_close(mean, losses.mean())
    total = vm.alpha_divergence_loss(logits, target, alpha, log_q, reduction="sum")
    torch.testing.assert_close(total, losses.sum())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_are_the_derivatives(alpha):
    logits, target = confusable_rows(3, 9, torch.float64)
    logits.requires_grad_()
    assert gradcheck(lambda x: vm.alpha_divergence_loss(x, target, alpha, -1.3, reduction="none"), logits)
    log_q = torch.linspace(-1, 1, 9, dtype=torch.float64)
    assert gradcheck(lambda x: vm.alpha_softargmax(x, alpha, log_q), logits)
    losses = vm.alpha_divergence_loss(logits, target, alpha, reduction="sum")
    (grad,) = torch.autograd.grad(losses, logits)
    p, _ = vm.alpha_softargmax(logits, alpha)
    torch.testing.assert_close(grad, p - torch.nn.functional.one_hot(target, 9))


rows = st.lists(st.floats(-30, 30), min_size=2, max_size=12)
alphas = st.floats(1.0, 3.0)


@settings(max_examples=150, deadline=None)
@given(rows, alphas, st.floats(-4, 2))
def test_a_distribution_for_any_input(theta, alpha, log_q_0):
    theta = torch.tensor([theta], dtype=torch.float64)
    log_q = torch.zeros(theta.shape[1], dtype=torch.float64)
    log_q[0] = log_q_0
    p, tau = vm.alpha_softargmax(theta, alpha, log_q)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(p.min()) >= 0
    if alpha > 1.0:
        active = theta > tau[:, None] - 1 / (alpha - 1)
        assert torch.equal(p > 0, active & (p > 0))
    shifted, tau_shifted = vm.alpha_softargmax(theta + 5.0, alpha, log_q)
    torch.testing.assert_close(shifted, p, atol=1e-7, rtol=0)
    torch.testing.assert_close(tau_shifted, tau + 5.0, atol=1e-7, rtol=0)


@settings(max_examples=150, deadline=None)
@given(rows, rows, alphas, st.floats(-4, 2), st.floats(0, 1))
def test_loss_is_convex_and_not_negative(first, second, alpha, log_q, share):
    size = min(len(first), len(second))
    a, b = (torch.tensor([x[:size]], dtype=torch.float64) for x in (first, second))
    target = torch.tensor([0])

    def loss(theta):
        return float(vm.alpha_divergence_loss(theta, target, alpha, log_q))

    scale = 1e-9 * (1 + math.exp((alpha - 1) * abs(log_q)) + 60)
    assert loss(a) >= -scale
    assert loss(share * a + (1 - share) * b) <= share * loss(a) + (1 - share) * loss(b) + scale
    assert loss(a + 3.0) == pytest.approx(loss(a), abs=scale)


@settings(max_examples=100, deadline=None)
@given(rows, st.floats(1.01, 2.5), st.floats(0, 3), st.floats(0, 3))
def test_lowering_q_y_never_shrinks_the_support(theta, alpha, log_q, lower):
    theta = torch.tensor([theta], dtype=torch.float64)
    wide, narrow = (torch.zeros(theta.shape[1], dtype=torch.float64) for _ in range(2))
    narrow[0], wide[0] = -log_q, -log_q - lower
    p_narrow, tau_narrow = vm.alpha_softargmax(theta, alpha, narrow)
    p_wide, tau_wide = vm.alpha_softargmax(theta, alpha, wide)
    assert float(tau_wide) <= float(tau_narrow) + 1e-9
    edge = 1e-9
    assert not bool(((p_narrow > edge) & (p_wide == 0)).any())


def test_loss_is_zero_exactly_where_p_is_one_hot():
    separated = torch.tensor([[9.0, 1.0, 0.0], [1.0, 9.0, 0.0]])
    losses = vm.alpha_divergence_loss(separated, torch.tensor([0, 0]), 1.5, reduction="none")
    assert losses[0] == 0
    assert losses[1] > 1


@pytest.mark.parametrize("alpha", [1.0 + 1e-7, 1.0 + 1e-5, 1.0 + 1e-3])
def test_near_one_is_near_the_softmax(alpha):
    for dtype, rounding in ((torch.float64, 1e-8), (torch.float32, 3e-6)):
        logits, target = confusable_rows(8, 300, dtype)
        p, tau = vm.alpha_softargmax(logits, alpha)
        torch.testing.assert_close(p, logits.softmax(1), atol=30 * (alpha - 1) + rounding, rtol=0)
        torch.testing.assert_close(tau, logits.logsumexp(1), atol=100 * (alpha - 1) + rounding, rtol=1e-6)
        loss = vm.alpha_divergence_loss(logits, target, alpha)
        expected = torch.nn.functional.cross_entropy(logits, target)
        torch.testing.assert_close(loss, expected, atol=100 * (alpha - 1) + rounding, rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.0 + 1e-7, 1.1, 1.25, 1.5, 1.9, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_solver_needs_fewer_steps_than_a_device_runs(alpha, dtype):
    width = 1 / (alpha - 1)
    step = torch.arange(1, 100_000, dtype=dtype)
    hard = {
        "normal": 10 * torch.randn(100_000, dtype=dtype),
        "linear": -width * step / len(step),
        "harmonic": -width / step,
        "logarithmic": -step.log(),
        "geometric": -(1.3 ** step[:60]).clamp(max=1e6) * 1e-6,
        "equal but one": torch.cat([torch.zeros(1, dtype=dtype), torch.full((100_000,), -0.99 * width, dtype=dtype)]),
    }
    for name, row in hard.items():
        x = row[None] - row.max()
        steps = 0

        def mass(delta, x=x):
            nonlocal steps
            steps += 1
            p, slope = divergence.mass_and_slope(x - delta[:, None], alpha)
            return p.sum(1), slope.sum(1)

        upper = divergence.q_logarithm(torch.tensor([float(x.shape[1])], dtype=dtype).log(), alpha)
        divergence.solve_threshold(mass, upper, alpha)
        assert steps < divergence.MAX_STEPS, name
        p, _ = vm.alpha_softargmax(row[None], alpha)
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-5 if dtype == torch.float32 else 1e-9), name


@pytest.mark.parametrize("alpha", [2.5, 4.0, 8.0])
def test_many_equal_classes_at_large_alpha(alpha):
    """Here p changes by orders of magnitude within the resolution of tau."""
    p, _ = vm.alpha_softargmax(torch.zeros(1, 50_000), alpha)
    torch.testing.assert_close(p, torch.full_like(p, 1 / 50_000))


@pytest.mark.parametrize("alpha", [6.0, 8.0])
def test_near_ties_at_large_alpha_in_float32(alpha):
    logits, target = confusable_rows(5, 3000, torch.float32, spread=0.0)
    logits = 0.1 * logits
    p, _ = vm.alpha_softargmax(logits, alpha)
    torch.testing.assert_close(p.sum(1), torch.ones(5))
    expected = [reference.loss(row, int(y), alpha) for row, y in zip(logits.double(), target)]
    losses = vm.alpha_divergence_loss(logits, target, alpha, reduction="none")
    torch.testing.assert_close(losses.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_large_common_offsets_cost_no_precision(alpha):
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    p, tau = vm.alpha_softargmax(logits, alpha)
    moved, tau_moved = vm.alpha_softargmax(logits + 2.0**20, alpha)
    assert torch.equal(moved, p)
    assert float(tau_moved) == pytest.approx(float(tau) + 2.0**20)
    loss = vm.alpha_divergence_loss(logits, torch.tensor([0]), alpha)
    assert torch.equal(vm.alpha_divergence_loss(logits + 2.0**20, torch.tensor([0]), alpha), loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.0, 1.25, 2.0])
def test_half_precision_is_solved_in_float32(alpha, dtype):
    logits, target = confusable_rows(16, 500, torch.float32, spread=20.0)
    half = (4 * logits).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vm.alpha_divergence_loss(half.requires_grad_(), target, alpha, -6.0)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, vm.alpha_divergence_loss(half.float(), target, alpha, -6.0))
    assert half.grad.dtype == dtype
    assert bool(torch.isfinite(half.grad).all())


def test_backward_twice_gives_the_same_gradient():
    logits, target = confusable_rows(4, 20, torch.float32)
    logits.requires_grad_()
    loss = vm.alpha_divergence_loss(logits, target, 1.5)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, second)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_compiled_equals_eager(alpha, monkeypatch):
    monkeypatch.setattr(divergence, "MAX_STEPS", 4)  # as many as these rows need: each is traced
    logits, target = confusable_rows(4, 20, torch.float64)

    def loss(x):
        return vm.alpha_divergence_loss(x, target, alpha, -1.0)

    def square(x):
        p, tau = vm.alpha_softargmax(x, alpha)
        return (p**2).sum() + tau.sum()

    for function in (loss, square):
        results = []
        for run in (torch.compile(function, backend="aot_eager"), function):
            x = logits.clone().requires_grad_()
            value = run(x)
            results.append((value, torch.autograd.grad(value, x)[0]))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 3.0])
def test_edge_shapes(alpha):
    empty = torch.zeros(0, 5, requires_grad=True)
    loss = vm.alpha_divergence_loss(empty, torch.zeros(0, dtype=torch.long), alpha)
    loss.backward()
    assert loss == 0
    assert empty.grad.shape == (0, 5)
    assert vm.alpha_softargmax(empty, alpha)[0].shape == (0, 5)
    single = torch.tensor([[3.0], [-2.0]])
    assert vm.alpha_divergence_loss(single, torch.tensor([0, 0]), alpha, -1.0) == pytest.approx(0, abs=1e-6)
    logits, _ = confusable_rows(6, 9, torch.float64)
    same = vm.alpha_divergence_loss(logits, torch.full((6,), 2), alpha, reduction="none")
    expected = [reference.loss(row, 2, alpha) for row in logits]
    torch.testing.assert_close(same, torch.tensor(expected, dtype=torch.float64))
    masked = torch.tensor([[1.0, -math.inf, 0.5]])
    torch.testing.assert_close(
        vm.alpha_softargmax(masked, alpha)[0][:, [0, 2]], vm.alpha_softargmax(masked[:, [0, 2]], alpha)[0]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1.25, 2.0, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("log_mass", [0.5, 26.0, 79.0])
def test_the_target_alone_has_no_loss_however_small_its_reference_measure(alpha, dtype, log_mass):
    """The loss was 175 at alpha 3, scale 64 and margin 0.2, and 4e9 at alpha 4: its terms cancelled all digits."""
    log_q = -log_mass / (alpha - 1.0)
    for logits, target in ((torch.tensor([[3.0]]), 0), (torch.tensor([[-math.inf, -2.5, -math.inf]]), 1)):
        logits = logits.to(dtype).requires_grad_()
        loss = vm.alpha_divergence_loss(logits, torch.tensor([target]), alpha, log_q)
        loss.backward()
        assert loss == 0
        assert not bool(logits.grad.any())


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_the_loss_keeps_its_digits_where_a_huge_constant_cancels(alpha):
    """The target leads by so much that p is nearly one-hot, although q_y^(1-alpha) is 1e5."""
    log_q = -math.log(1e5) / (alpha - 1.0)
    threshold = (1e5 - 1.0) / (alpha - 1.0)  # the lead from which on the loss is 0
    logits = torch.tensor([[threshold - 0.3, 0.0, -0.1]], dtype=torch.float64)
    expected = reference.loss(logits[0], 0, alpha, log_q)
    assert float(vm.alpha_divergence_loss(logits, torch.tensor([0]), alpha, log_q)) == pytest.approx(expected, abs=1e-6)


GOOD = torch.zeros(2, 3)
LABELS = torch.tensor([0, 1])
MASKED = torch.tensor([[-math.inf, -math.inf, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vm.alpha_softargmax(GOOD, 0.5), "alpha is 0.5"),
        (lambda: vm.alpha_softargmax(GOOD, math.nan), "alpha is nan"),
        (lambda: vm.alpha_softargmax(GOOD, math.inf), "alpha is inf"),
        (lambda: vm.alpha_softargmax(GOOD, 50), "alpha is 50: give at most 8"),
        (lambda: vm.alpha_divergence_loss(GOOD, LABELS, 8.1), "alpha is 8.1: give at most 8"),
        (lambda: vm.alpha_softargmax(GOOD.long(), 1.5), "int64"),
        (lambda: vm.alpha_softargmax(GOOD[0], 1.5), r"shape \(3,\)"),
        (lambda: vm.alpha_softargmax(GOOD.numpy(), 1.5), "logits are given as ndarray: give a tensor"),
        (lambda: vm.alpha_softargmax(GOOD[:, :0], 1.5), r"shape \(2, 0\)"),
        (lambda: vm.alpha_softargmax(GOOD + math.nan, 1.5), "sample 0 has nan among its logits"),
        (lambda: vm.alpha_softargmax(GOOD - math.inf, 1.5), "sample 0 has -inf among its logits"),
        (lambda: vm.alpha_divergence_loss(GOOD, torch.tensor([0, 3]), 1.5), "label 3 of sample 1 is outside 0..2"),
        (lambda: vm.alpha_divergence_loss(GOOD, torch.tensor([-1, 0]), 1.5), "label -1 of sample 0"),
        (lambda: vm.alpha_divergence_loss(GOOD, torch.tensor([0.0, 1.0]), 1.5), "float32"),
        (lambda: vm.alpha_divergence_loss(GOOD, torch.tensor([0]), 1.5), r"shape \(1,\)"),
        (lambda: vm.alpha_divergence_loss(GOOD, LABELS.to("meta"), 1.5), "labels are on meta"),
        (lambda: vm.alpha_divergence_loss(GOOD, LABELS, 1.5, torch.zeros(3)), r"target_log_q has shape \(3,\)"),
        (lambda: vm.alpha_divergence_loss(GOOD, LABELS, 1.5, reduction="avg"), "reduction is 'avg'"),
        (lambda: vm.alpha_divergence_loss(GOOD, LABELS, 1.5, math.nan), "nan among its target_log_q"),
        (lambda: vm.alpha_divergence_loss(MASKED, LABELS, 1.5), "sample 0 has -inf among its target logit"),
        (lambda: vm.alpha_softargmax(MASKED, 1.5, MASKED.flip(1)), "sample 0 has -inf among its logits . log_q"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
