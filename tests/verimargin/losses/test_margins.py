import logging
import math

import pytest
import reference
import torch
import verimargin as vm
from small_cosines import MARGINS, NORMS, cosines, quality_margins
from torch.autograd import gradcheck


def test_arc_margin_is_monotone_past_pi_and_smooth_at_one():
    cosine = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    logit, _ = vm.ArcMargin(0.5)(cosine, torch.zeros(2001, dtype=torch.long), 1.0)
    assert bool((logit.diff() > 0).all())
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([1.0, -1.0, 1.0000001, 0.0], dtype=dtype, requires_grad=True)
        logit, _ = vm.ArcMargin(0.5)(ends.clamp(-1, 1), torch.zeros(4, dtype=torch.long), 1.0)
        logit.sum().backward()
        assert bool(torch.isfinite(ends.grad).all())


def test_each_class_has_its_own_margin():
    cosine, target = cosines()
    psi = torch.linspace(0, 1, 11, dtype=torch.float64)
    for kind in (vm.CosMargin, vm.ArcMargin, vm.QMargin):
        alpha = 1.5 if kind is vm.QMargin else 1.0
        together = vm.MarginLoss(kind(0.4, psi=psi), alpha, scale=9.0, reduction="none")(cosine, target)
        for i, y in enumerate(target.tolist()):
            alone = vm.MarginLoss(kind(0.4 * float(psi[y])), alpha, scale=9.0)(cosine[i : i + 1], target[i : i + 1])
            torch.testing.assert_close(together[i], alone)
    kappa = vm.kappaface(num_classes=11, scale=9.0, margin=0.4)
    torch.testing.assert_close(kappa(cosine, target), vm.arcface(9.0, 0.4)(cosine, target))


def test_margin_and_psi_are_state(caplog):
    saved = vm.MarginLoss(vm.QMargin(0.1, psi=torch.ones(3)), 1.5, scale=5.0)
    saved.margin.m = 0.3
    saved.margin.psi[1] = 0.5
    resumed = vm.MarginLoss(vm.QMargin(0.1, psi=torch.ones(3)), 1.5, scale=5.0)
    with caplog.at_level(logging.INFO, logger="verimargin"):
        resumed.load_state_dict(saved.state_dict())
    assert resumed.margin.m == 0.3
    assert resumed.margin.psi.tolist() == [1.0, 0.5, 1.0]
    assert "the margin is 0.3, as saved, not 0.1" in caplog.text


def test_a_margin_of_your_own():
    class HalfCosine(vm.Margin):
        def forward(self, cosine, label, scale):
            return scale * (cosine - 0.5 * self.m), torch.zeros_like(cosine)

    cosine, target = cosines()
    loss = vm.MarginLoss(HalfCosine(0.4), scale=9.0)(cosine, target)
    torch.testing.assert_close(loss, vm.cosface(9.0, 0.2)(cosine, target))


@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: type(margin).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_each_margin_equals_its_line_of_the_table(margin, dtype, tolerance):
    cosine = torch.linspace(-0.99, 0.99, 41, dtype=dtype)
    logit, log_q = margin(cosine, torch.zeros(41, dtype=torch.long), 12.0)
    assert logit.dtype == log_q.dtype == dtype
    for c, found, found_log_q in zip(cosine.tolist(), logit.tolist(), log_q.tolist()):
        expected, expected_log_q = reference.margin(type(margin).__name__, c, margin.m, 12.0)
        assert found == pytest.approx(expected, abs=tolerance)
        assert found_log_q == pytest.approx(expected_log_q, abs=tolerance)


@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: type(margin).__name__)
def test_the_slope_of_a_target_logit_is_its_derivative(margin):
    cosine = torch.linspace(-0.97, 0.97, 9, dtype=torch.float64, requires_grad=True)  # pi - 0.4 lies between two
    assert gradcheck(lambda c: margin(c, torch.zeros(9, dtype=torch.long), 8.0)[0], cosine)


@pytest.mark.parametrize("margin", quality_margins(), ids=lambda margin: type(margin).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_a_margin_with_a_quality_equals_its_line_of_the_table(margin, dtype, tolerance):
    """Each quality with each cosine, where the moved angle is below 0, between, and above pi."""
    quality = reference.Quality(margin.quality.weight, h=0.5)
    quality.mean, quality.std = 21.0, 9.0
    for norm in NORMS.tolist():
        cosine = torch.linspace(-0.995, 0.995, 41, dtype=dtype)
        label, norms = torch.zeros(41, dtype=torch.long), torch.full((41,), norm)
        logit, log_q = margin(cosine, label, 12.0, norms)
        assert logit.dtype == log_q.dtype == dtype
        for c, found, found_log_q in zip(cosine.tolist(), logit.tolist(), log_q.tolist()):
            expected = reference.margin(type(margin).__name__, c, margin.m, 12.0, quality.of([norm])[0])
            assert (found, found_log_q) == pytest.approx(expected, abs=tolerance)


def test_ada_margin_lies_between_arcface_and_cosface():
    """Average samples get CosFace's margin, the worst ArcFace's; with the best, it is on both."""
    margin = quality_margins()[0]
    cosine, label = torch.linspace(-0.9, 0.9, 19), torch.zeros(19, dtype=torch.long)

    def with_norm(norm):
        return margin(cosine, label, 1.0, torch.full((19,), norm))[0]

    torch.testing.assert_close(with_norm(21.0), vm.CosMargin(0.4)(cosine, label, 1.0)[0])
    torch.testing.assert_close(with_norm(0.0), vm.ArcMargin(0.4)(cosine, label, 1.0)[0])
    torch.testing.assert_close(with_norm(99.0), (torch.arccos(cosine) - 0.4).cos() - 0.8)
    assert margin.quality(torch.tensor([21.0, 0.0, 99.0])).tolist() == [0.0, -1.0, 1.0]


@pytest.mark.parametrize("margin", quality_margins(), ids=lambda margin: type(margin).__name__)
def test_the_slope_with_a_quality_is_the_derivative(margin):
    cosine = torch.linspace(-0.97, 0.97, 7, dtype=torch.float64, requires_grad=True)
    label = torch.zeros(7, dtype=torch.long)
    assert gradcheck(lambda c: margin(c, label, 8.0, NORMS)[0], cosine)
    assert gradcheck(lambda c: margin(c, label, 8.0, NORMS.flip(0))[0], cosine)


def test_a_quality_and_a_factor_for_each_class_go_together():
    psi, label = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64), torch.tensor([0, 2, 1, 0, 1, 0, 2])
    cosine = cosines()[0][:, 0]
    for plain in quality_margins():
        margin = type(plain)(plain.m, psi=psi, **({"quality": plain.quality} if isinstance(plain, vm.QMargin) else {}))
        margin.quality = plain.quality
        found = margin(cosine, label, 9.0, NORMS)
        for i, y in enumerate(label.tolist()):
            alone = type(plain)(plain.m * float(psi[y]))
            alone.quality = plain.quality
            expected = alone(cosine[i : i + 1], label[i : i + 1], 9.0, NORMS[i : i + 1])
            torch.testing.assert_close((found[0][i : i + 1], found[1][i : i + 1]), expected)


def test_what_is_no_quality_is_refused():
    with pytest.raises(ValueError, match=r"quality is 0\.5: give a Quality, such as Quality\(weight=0\.5\)"):
        vm.QMargin(0.2, quality=0.5)
    with pytest.raises(ValueError, match="CosMargin does not follow a quality: AdaMargin and QMargin do"):
        vm.CosMargin(0.2, quality=vm.Quality())
    with pytest.raises(ValueError, match="the quality's weight is 1: give less than 1 to QMargin"):
        vm.QMargin(0.2, quality=vm.Quality(1.0))
    with pytest.raises(ValueError, match=r"margin is 2: give at most 1\.5708 to AdaMargin"):
        vm.AdaMargin(2.0)


def test_a_factor_is_looked_up_by_class_in_the_dtype_of_the_cosines():
    margin = vm.QMargin(0.5, psi=torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64))
    found = margin.class_margin(torch.tensor([2, 0, 2]), torch.zeros(3))
    assert found.dtype == torch.float32
    assert found.tolist() == [1.5, 0.0, 1.5]
    assert vm.QMargin(0.5).class_margin(torch.tensor([2, 0]), torch.zeros(2)) == 0.5


def test_a_margin_is_scheduled_by_assignment_and_says_what_it_is():
    margin = vm.ArcMargin(0.5, psi=torch.ones(3))
    margin.m = 0.25
    assert repr(margin) == "ArcMargin(m=0.25, psi of 3 classes)"
    assert repr(vm.NoMargin()) == "NoMargin(m=0)"
    for m, message in ((-0.1, "margin is -0.1: give a finite number >= 0"), (2.0, "margin is 2: give at most 1.5708")):
        with pytest.raises(ValueError, match=message):
            margin.m = m
    assert margin.m == 0.25
    assert vm.ArcMargin(math.pi / 2).m == math.pi / 2


@pytest.mark.parametrize("psi", [torch.ones(2, 2), torch.ones(2, dtype=torch.long), torch.tensor([1.0, math.inf])])
def test_factors_that_are_none_are_refused(psi):
    with pytest.raises(ValueError, match=r"psi is torch\.\w+ of shape .*: give finite numbers >= 0, \(C,\)"):
        vm.CosMargin(0.2, psi=psi)
