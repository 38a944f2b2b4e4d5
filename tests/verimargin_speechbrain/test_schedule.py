import pytest
import torch
import verimargin as vm
from speechbrain.utils.epoch_loop import EpochCounter
from verimargin_speechbrain import MarginCost, MarginSchedule, PrototypeClassifier, PrototypeCost, QMarginLoss

RAMP = vm.Ramp(0.0, 0.2, start=0, end=4)


def batch(speakers=20, size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 1, size, generator=generator), torch.randint(speakers, (6, 1), generator=generator)


def stock():
    weight = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(1)))
    cost = QMarginLoss(scale=10)

    def classify(x, training):
        return torch.nn.functional.normalize(x, dim=2) @ weight.T

    return cost, classify


def sparse():
    torch.manual_seed(0)
    classifier = PrototypeClassifier(8, 20, vm.q_margin(1.5, 10.0, 0.2))
    return PrototypeCost(classifier), lambda x, training: classifier.train(training)(x)


def train(cost, classify, steps):
    """The margins with which the losses of the steps were computed."""
    found = []
    for _ in range(steps):
        x, ids = batch()
        margin, loss = cost.margin_loss.margin.m, cost(classify(x.requires_grad_(), True), ids)
        loss.backward()
        found.append((margin, float(loss.detach())))
    return found


def validate(cost, classify):
    with torch.no_grad():
        cost(classify(batch()[0], False), batch()[1])


@pytest.mark.parametrize("make", [stock, sparse])
def test_training_steps_count_and_validation_does_not(make):
    cost, classify = make()
    schedule = MarginSchedule(cost, margin=RAMP)
    margins, losses = zip(*train(cost, classify, 2))
    for _ in range(3):
        validate(cost, classify)
    more = train(cost, classify, 4)
    assert [*margins, *(m for m, _ in more)] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.2])
    assert schedule.count == 6
    assert losses[0] < losses[1] < more[0][1], "the margin is in the loss"


@pytest.mark.parametrize("make", [stock, sparse])
def test_epochs_are_those_of_the_counter(make):
    cost, classify = make()
    counter = EpochCounter(3)
    MarginSchedule(cost, margin=RAMP, scale=vm.Ramp(5.0, 10.0, 1, 1), epoch_counter=counter)
    found = []
    for _ in counter:
        for _ in range(2):
            train(cost, classify, 1)
            found.append((cost.margin_loss.margin.m, cost.margin_loss.scale))
        validate(cost, classify)
    assert found == [(0.0, 5.0)] * 2 + [(0.05, 10.0)] * 2 + [(0.1, 10.0)] * 2


def test_a_counter_that_does_not_count_is_refused():
    cost, classify = stock()
    MarginSchedule(cost, margin=RAMP, epoch_counter=EpochCounter(3))
    with pytest.raises(RuntimeError, match="epoch_counter counts no epoch"):
        train(cost, classify, 1)


def test_an_interrupted_run_goes_on_exactly():
    cost, classify = stock()
    schedule = MarginSchedule(cost, margin=RAMP)
    train(cost, classify, 2)
    state = schedule.state_dict()
    other, _ = stock()
    MarginSchedule(other, margin=RAMP).load_state_dict(state)
    assert train(other, classify, 3) == train(cost, classify, 3)


def test_kappaface_scales_the_scheduled_margin():
    loss = vm.MarginLoss(vm.QMargin(0.2, psi=torch.linspace(0, 1, 20)), 1.5, scale=10.0)
    cost, (_, classify) = MarginCost(loss), stock()
    MarginSchedule(cost, margin=vm.Ramp(0.4, 0.1, 1, 1))
    train(cost, classify, 1)
    x, ids = batch()
    cosine = classify(x, True)
    fixed = vm.MarginLoss(vm.QMargin(0.1, psi=torch.linspace(0, 1, 20)), 1.5, scale=10.0)
    assert cost(cosine, ids) == fixed(cosine[:, 0], ids[:, 0])


def test_wrong_uses_are_named():
    with pytest.raises(ValueError, match=r"the schedule's cost is a MarginLoss: give .* `cost: !ref <compute_cost>`"):
        MarginSchedule(vm.q_margin(), margin=RAMP)
    cost, _ = stock()
    MarginSchedule(cost, margin=RAMP)
    with pytest.raises(ValueError, match="the cost has a schedule already"):
        MarginSchedule(cost, scale=vm.Ramp(5.0, 10.0, 0, 2))


def test_the_settings_are_recorded():
    cost, _ = stock()
    assert cost.settings()["Schedule"] is False
    MarginSchedule(cost, margin=RAMP)
    found = cost.settings()
    assert (found["Schedule"], found["Schedule.unit"]) == (True, "steps")
    assert found["Schedule.margin"] == "Ramp(initial=0.0, final=0.2, start=0, end=4, shape='linear')"
