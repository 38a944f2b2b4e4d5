import copy
import math

import pytest
import reference
import torch
import verimargin as vm
from small_cosines import MARGINS, NORMS, cosines, quality_margins
from torch.autograd import gradcheck


@pytest.mark.parametrize("alpha", [1.0, 1.25, 2.0])
@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: type(margin).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_loss_equals_the_table_of_margins(margin, alpha, dtype, tolerance):
    cosine, target = cosines(dtype=dtype)
    loss = vm.MarginLoss(margin, alpha, scale=12.0, reduction="none")(cosine, target)
    expected = []
    for row, y in zip(cosine.double().numpy(), target.tolist()):
        theta = 12.0 * row
        theta[y], log_q = reference.margin(type(margin).__name__, row[y], margin.m, 12.0)
        expected.append(reference.loss(theta, y, alpha, log_q))
    torch.testing.assert_close(loss.double(), torch.tensor(expected, dtype=torch.float64), atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: type(margin).__name__)
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_gradients_are_the_derivatives(margin, alpha):
    cosine, target = cosines(4, 5)
    assert gradcheck(vm.MarginLoss(margin, alpha, scale=8.0), (cosine.requires_grad_(), target))


@pytest.mark.parametrize("alpha", [1.0, 1.25, 2.0])
@pytest.mark.parametrize("margin", quality_margins(), ids=lambda margin: type(margin).__name__)
def test_loss_with_a_quality_equals_the_table(margin, alpha):
    cosine, target = cosines()
    loss = vm.MarginLoss(copy.deepcopy(margin), alpha, scale=12.0, reduction="none")(cosine, target, NORMS)
    quality = reference.Quality(margin.quality.weight, h=0.5)
    quality.mean, quality.std = 21.0, 9.0
    quality.update(NORMS)
    expected = []
    for row, y, g in zip(cosine.numpy(), target.tolist(), quality.of(NORMS)):
        theta = 12.0 * row
        theta[y], log_q = reference.margin(type(margin).__name__, row[y], margin.m, 12.0, g)
        expected.append(reference.loss(theta, y, alpha, log_q))
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=1e-6)


def test_without_a_weight_the_quality_changes_nothing():
    cosine, target = cosines()
    with_quality = vm.q_margin(1.5, 9.0, 0.2, vm.Quality(0.0))
    assert with_quality(cosine, target, NORMS) == vm.q_margin(1.5, 9.0, 0.2)(cosine, target)
    assert vm.q_margin(1.5, 9.0, 0.2)(cosine, target, NORMS) == vm.q_margin(1.5, 9.0, 0.2)(cosine, target)


def test_a3m_and_entmax_by_name(caplog):
    cosine, target = cosines()
    assert vm.entmax(1.5, 9.0)(cosine, target) == vm.MarginLoss(vm.NoMargin(), 1.5, scale=9.0)(cosine, target)
    vm.arcface(9.0, 0.3)
    assert not caplog.records
    a3m = vm.a3m(alpha=1.5, scale=9.0, margin=0.3)
    assert "ArcMargin with alpha 1.5 is the A3M loss" in caplog.text
    assert "unstable unless the prototypes are initialised anew" in caplog.text
    caplog.clear()
    assert a3m(cosine, target) == vm.MarginLoss(vm.ArcMargin(0.3), 1.5, scale=9.0)(cosine, target)
    assert "is the A3M loss" in caplog.text
    assert repr(vm.adaface().margin) == repr(vm.AdaMargin(0.4, h=0.333))


@pytest.mark.parametrize("alpha", [1.0, 1.0 + 1e-6, 1.0 + 1e-4])
def test_q_margin_tends_to_cosface(alpha):
    cosine, target = cosines(9, 200)
    q = vm.q_margin(alpha, 30.0, 0.2)(cosine, target)
    tolerance = 1e-9 if alpha == 1.0 else 2e3 * (alpha - 1.0)
    assert float(q) == pytest.approx(float(vm.cosface(30.0, 0.2)(cosine, target)), abs=tolerance)
    gradients = [
        torch.autograd.grad(loss(x, target), x)[0]
        for loss in (vm.q_margin(alpha, 30.0, 0.2), vm.cosface(30.0, 0.2))
        for x in [cosine.clone().requires_grad_()]
    ]
    torch.testing.assert_close(*gradients, atol=tolerance, rtol=0)


def test_rounding_past_one_and_half_precision_are_harmless():
    cosine = torch.tensor([[1.0000002, -1.0000002, 0.3]])
    past, exact = torch.tensor([[1.005, -1.005, 0.3]]), torch.tensor([[1.0, -1.0, 0.3]])  # half precision rounds so far
    for loss in (vm.q_margin(1.5, 10, 0.2), vm.cosface(30, 0.2)):
        for target in range(3):
            assert loss(past, torch.tensor([target])) == loss(exact, torch.tensor([target]))
    for loss in (vm.q_margin(1.5, 10, 0.2), vm.arcface(30, 0.2)):
        assert bool(torch.isfinite(loss(cosine, torch.tensor([0]))))
        assert loss(cosine.half(), torch.tensor([2])).dtype == torch.float32
    empty = vm.q_margin(1.5, 10, 0.2)(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert empty == 0


def test_a_loss_that_cannot_be_read_says_so(caplog):
    """alpha 4 and scale 64 begin near 4e15, of which float32 keeps seven digits."""
    vm.q_margin(1.25, 32.0, 0.5)
    assert not caplog.records
    loss = vm.q_margin(4.0, 64.0, 0.2)
    assert "scale * margin is 38.4: the loss begins near 4e+15" in caplog.text
    assert float(loss(torch.tensor([[0.1, 0.9]]), torch.tensor([0]))) == pytest.approx(4e15, rel=0.1)


def with_psi(largest):
    return vm.MarginLoss(vm.QMargin(0.2, psi=torch.tensor([1.0, largest, 1.0])), 4.0, scale=64.0)


def psi_raised_to(largest):
    loss = with_psi(1.0)
    loss.margin.psi[1] = largest
    return loss


def scheduled_to(m):
    loss = vm.q_margin(2.0, 50.0, 0.2)
    loss.margin.m = m
    return loss


COSINE, TARGET = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vm.q_margin(0.9, 10, 0.2), "alpha is 0.9"),
        (lambda: vm.q_margin(1.5, 0, 0.2), "scale is 0.0: give a finite number > 0"),
        (lambda: vm.q_margin(1.5, -3, 0.2), "scale is -3"),
        (lambda: vm.q_margin(1.5, 10, -0.2), "margin is -0.2"),
        (lambda: vm.q_margin(1.5, 0.2, 10), "margin is 10: give at most 2 to QMargin"),
        (lambda: vm.cosface(0.4, 64), "margin is 64: give at most 2 to CosMargin"),
        (lambda: vm.q_margin(1.5, 10, math.nan), "margin is nan"),
        (lambda: vm.q_margin(4.0, 64, 0.5), r"\(alpha - 1\) \* scale \* margin is 96"),
        (lambda: scheduled_to(2.0)(COSINE, TARGET), r"\(alpha - 1\) \* scale \* margin is 100"),
        (lambda: vm.q_margin(4.0, 64, 0.3, vm.Quality(0.5)), r"\(alpha - 1\) \* scale \* margin is 86.4"),
        (
            lambda: vm.adaface()(COSINE, TARGET),
            r"norms of the embeddings .* missing: call loss\(cosine, target, norms\)",
        ),
        (
            lambda: vm.adaface()(COSINE, TARGET, torch.ones(3)),
            r"norms are torch.float32 of shape \(3,\): give one norm",
        ),
        (lambda: vm.adaface()(COSINE, TARGET, TARGET), r"norms are torch.int64 of shape \(2,\)"),
        (lambda: vm.adaface()(COSINE, TARGET, torch.tensor([1.0, math.nan])), "embedding of sample 1 has norm nan"),
        (lambda: vm.a3m(1.0, 9.0, 0.2), "alpha is 1: give an alpha above 1; with 1 it is arcface"),
        (lambda: with_psi(3.0), r"\(alpha - 1\) \* scale \* margin is 115"),
        (lambda: psi_raised_to(3.0)(COSINE, TARGET), r"\(alpha - 1\) \* scale \* margin is 115"),
        (lambda: vm.arcface(30, 28.6), "margin is 28.6: give at most 1.5708 to ArcMargin"),
        (lambda: vm.CosMargin(0.2, psi=torch.tensor([-1.0])), "give finite numbers >= 0"),
        (lambda: vm.kappaface(4)(COSINE, TARGET), "psi for 4 classes, the cosines are of 3"),
        (lambda: vm.cosface()(COSINE - 7.0, TARGET), "the cosines hold -7: the loss takes cosines"),
        (lambda: vm.MarginLoss(0.2, scale=3.0), "give a Margin, such as QMargin"),
        (lambda: vm.CosMargin(0.2, psi=torch.tensor([math.nan])), "psi is"),
        (lambda: vm.cosface()(COSINE[0], TARGET), r"cosine is torch.float32 of shape \(3,\)"),
        (lambda: vm.cosface()(COSINE + math.inf, TARGET), "sample 0 has inf among its cosines"),
        (lambda: vm.cosface()(COSINE, torch.tensor([0, 5])), "label 5 of sample 1"),
        (lambda: vm.cosface()(COSINE, COSINE), "torch.float32"),
        (lambda: vm.cosface()(COSINE.numpy(), TARGET), "cosines are given as ndarray: give a tensor"),
        (lambda: vm.cosface()(COSINE, TARGET.tolist()), "labels are given as list: give a tensor"),
        (lambda: vm.adaface()(COSINE, TARGET, [1.0, 1.0]), "norms are given as list: give a tensor"),
        (lambda: vm.kappaface(3).to("meta")(COSINE, TARGET), "psi is on meta"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_presets_have_the_published_settings():
    settings = {
        preset.__name__: (loss.alpha, loss.scale, loss.margin.m)
        for preset in (vm.q_margin, vm.arcface, vm.cosface)
        for loss in [preset()]
    }
    assert settings == {"q_margin": (1.25, 32, 0.2), "arcface": (1, 64, 0.5), "cosface": (1, 64, 0.4)}
    kappaface = vm.kappaface(3)
    assert (kappaface.alpha, kappaface.scale, kappaface.margin.m) == (1, 64, 0.8)


def test_the_scale_in_the_place_of_the_number_of_classes_is_named():
    """It was a TypeError of torch.ones."""
    with pytest.raises(ValueError, match=r"num_classes is 64\.0: give an integer, as in kappaface\(num_classes, "):
        vm.kappaface(64.0, 10)
    with pytest.raises(ValueError, match="num_classes is 'many': give an integer"):
        vm.kappaface("many")


def test_norms_that_are_ignored_are_told_once(caplog):
    cosine, target, norms = torch.tensor([[0.8, 0.1]]), torch.tensor([0]), torch.tensor([20.0])
    loss = vm.q_margin()
    without = loss(cosine, target)
    assert not caplog.records
    assert all(torch.equal(loss(cosine, target, norms), without) for _ in range(2))
    (record,) = caplog.records
    assert "its QMargin does not depend on them: they are ignored" in record.getMessage()
    vm.adaface()(cosine, target, norms)
    assert len(caplog.records) == 1
