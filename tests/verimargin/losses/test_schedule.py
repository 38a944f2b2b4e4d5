import math

import pytest
import reference
import torch
import verimargin as vm
from small_cosines import cosines


@pytest.mark.parametrize("shape", ["linear", "exponential"])
@pytest.mark.parametrize(("start", "end"), [(0, 8), (3, 10), (5, 5)])
def test_a_ramp_follows_its_formula(shape, start, end):
    ramp = vm.Ramp(0.1, 0.5, start, end, shape)
    for t in range(14):
        assert ramp(t) == pytest.approx(reference.ramp(0.1, 0.5, start, end, shape, t), abs=1e-15)
    assert (ramp(start - 1), ramp(end)) == (0.1, 0.5)


def test_numbers_that_yaml_takes_for_texts_are_numbers():
    """YAML reads 1e-3 and 4e4 as texts: a ramp of them failed when it began to rise."""
    ramp = vm.Ramp("1e-3", "2e-1", start="2", end="4")
    assert [ramp(t) for t in (0, 3, 4)] == [0.001, pytest.approx(0.1005), 0.2]
    assert ramp == vm.Ramp(0.001, 0.2, 2, 4)


@pytest.mark.parametrize("t", [0, 4, 5, 9, 20])
def test_an_exponential_ramp_is_wespeakers(t):
    """wespeaker writes it with log(1e-3 / (1 + 1e-6))."""
    x = min(max(t - 5, 0) / 5, 1.0)
    wespeaker = 0.5 if t >= 10 else 0.5 * (1.0 - math.exp(x * math.log(1e-3 / (1.0 + 1e-6))))
    assert vm.Ramp(0.0, 0.5, 5, 10, "exponential")(t) == pytest.approx(wespeaker, abs=1e-6)


def scheduled(preset=vm.q_margin, **options):
    loss = preset(scale=10.0, margin=0.3) if preset is not vm.kappaface else vm.kappaface(11, 10.0, 0.3)
    return loss, vm.Schedule(loss, **options)


@pytest.mark.parametrize("preset", [vm.q_margin, vm.arcface, vm.cosface, vm.kappaface])
def test_the_loss_is_that_of_the_scheduled_margin_and_scale(preset):
    loss, schedule = scheduled(preset, margin=vm.Ramp(0.0, 0.4, 1, 3), scale=vm.Ramp(5.0, 20.0, 0, 4, "exponential"))
    cosine, target = cosines()
    if loss.margin.psi is not None:
        loss.margin.psi = torch.linspace(0, 1, 11, dtype=torch.float64)
    name = type(loss.margin).__name__
    for t in range(6):
        m, scale = reference.ramp(0.0, 0.4, 1, 3, "linear", t), reference.ramp(5.0, 20.0, 0, 4, "exponential", t)
        assert (loss.margin.m, loss.scale) == pytest.approx((m, scale), abs=1e-12)
        expected = []
        for row, y in zip(cosine.numpy(), target.tolist()):
            theta, psi = scale * row, 1.0 if loss.margin.psi is None else float(loss.margin.psi[y])
            theta[y], log_q = reference.margin(name, row[y], psi * m, scale)
            expected.append(reference.loss(theta, y, loss.alpha, log_q))
        assert float(loss(cosine, target)) == pytest.approx(sum(expected) / len(expected), rel=1e-6)
        schedule.step()


def test_a_resumed_schedule_goes_on_exactly():
    options = {"margin": vm.Ramp(0.0, 0.4, 0, 7), "scale": vm.Ramp(5.0, 20.0, 2, 9)}
    loss, schedule = scheduled(**options)
    for _ in range(4):
        schedule.step()
    saved = schedule.state_dict()
    other_loss, other = scheduled(**options)
    other.load_state_dict(saved)
    for _ in range(3):
        assert (other_loss.margin.m, other_loss.scale, other.count) == (loss.margin.m, loss.scale, schedule.count)
        schedule.step()
        other.step()
    assert saved["_extra_state"]["scale"] == pytest.approx(5 + 15 * 2 / 7)


def test_what_is_not_scheduled_stays():
    loss, schedule = scheduled(margin=vm.Ramp(0.0, 0.4, 0, 7))
    schedule.step()
    assert loss.scale == 10.0
    loss, schedule = scheduled(scale=vm.Ramp(5.0, 20.0, 0, 7))
    schedule.step()
    assert loss.margin.m == 0.3


def test_the_head_trains_with_the_scheduled_loss():
    torch.manual_seed(0)
    loss, schedule = scheduled(margin=vm.Ramp(0.0, 0.4, 0, 2))
    head, x, labels = vm.PrototypeHead(16, 50, loss), torch.randn(4, 16), torch.arange(4)
    before = head(x, labels)
    schedule.step()
    assert head(x, labels) > before
    fixed = vm.PrototypeHead(16, 50, vm.q_margin(scale=10.0, margin=0.2))
    fixed.load_state_dict(head.state_dict())
    assert head(x, labels) == fixed(x, labels)


def steep(**options):
    return vm.Schedule(vm.q_margin(4.0, 10.0, 0.2), **options)


RAMP = vm.Ramp(0.0, 0.2, 0, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vm.Ramp(-0.1, 0.2), "Ramp's initial is -0.1"),
        (lambda: vm.Ramp(0.1, math.nan), "Ramp's final is nan"),
        (lambda: vm.Ramp(0.1, 0.2, 5, 3), "Ramp's end is 3, before its start 5"),
        (lambda: vm.Ramp(0.1, 0.2, -1, 3), "Ramp's start is -1"),
        (lambda: vm.Ramp(0.1, 0.2, 0, 2.5), "Ramp's end is 2.5"),
        (lambda: vm.Ramp(0.1, 0.2, 0, None), "Ramp's end is None: give an integer"),
        (lambda: vm.Ramp(0.0, 0.2), r"Ramp's end is 0, so that the number is 0\.2 from the first step on and never 0"),
        (lambda: vm.Ramp("low", 0.2), "Ramp's initial is 'low': give a finite number"),
        (lambda: vm.Ramp(0.1, 0.2, 0, 3, "exp"), "Ramp's shape is 'exp': give 'linear' or 'exponential'"),
        (lambda: vm.Schedule(vm.q_margin()), "neither a margin nor a scale"),
        (lambda: vm.Schedule(vm.q_margin(), margin=0.2), "the schedule's margin is 0.2: give a Ramp"),
        (
            lambda: vm.Schedule(vm.PrototypeHead(4, 3, vm.cosface()), margin=RAMP),
            r"loss is a PrototypeHead: give its loss, as in Schedule\(head\.loss, margin=",
        ),
        (lambda: vm.Schedule(vm.QMargin(0.2), margin=RAMP), "give the MarginLoss"),
        (lambda: vm.Schedule(vm.MarginLoss(vm.NoMargin(), 1.5, scale=10), margin=RAMP), "the loss has none"),
        (lambda: steep(scale=vm.Ramp(0.0, 10.0, 0, 5)), "smallest scale is 0.0: give a finite number > 0"),
        (lambda: steep(margin=vm.Ramp(0.0, 1.5, 0, 5), scale=vm.Ramp(10.0, 20.0, 0, 5)), r"scale \* margin is 90"),
        (lambda: steep(margin=vm.Ramp(0.0, 3.0, 0, 5)), "margin is 3: give at most 2"),
        (lambda: steep(scale=vm.Ramp(200.0, 10.0, 0, 5)), r"scale \* margin is 120"),
        (lambda: vm.Schedule(vm.arcface(), margin=vm.Ramp(0.0, 28.6, 0, 5)), "margin is 28.6: give at most 1.5708"),
        (lambda: steep(margin=RAMP).set_count(-1), "the schedule's count is -1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_schedule_leaves_the_loss_as_it_was():
    loss = vm.q_margin(4.0, 20.0, 0.2)
    with pytest.raises(ValueError, match="overflows"):
        vm.Schedule(loss, margin=vm.Ramp(0.0, 1.5, 0, 5))
    assert loss.margin.m == 0.2


def test_a_ramp_that_is_constant_needs_no_end():
    assert [vm.Ramp(0.2, 0.2)(t) for t in (0, 5)] == [0.2, 0.2]
