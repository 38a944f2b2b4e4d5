import copy
import gc
import pickle
import weakref

import pytest
import torch
import verimargin as vm


def network():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, 4))


def train(encoder, slow, steps, seed=1):
    """Steps of some training; the states of the encoder that `slow` was updated with."""
    torch.manual_seed(seed)  # of Dropout too
    optimizer, states = torch.optim.SGD(encoder.parameters(), lr=0.02), []
    encoder.train()
    for _ in range(steps):
        slow.update(encoder)
        states.append(copy.deepcopy(encoder.state_dict()))
        optimizer.zero_grad()
        x = torch.randn(32, 8)
        (encoder(5 + 3 * x) - 9 * x[:, :4]).square().mean().backward()
        optimizer.step()
    return states


def test_equals_the_formula_for_weights_and_statistics():
    encoder = network()
    slow = vm.MomentumEncoder(encoder, momentum=0.8)
    with torch.no_grad():
        encoder[0].weight.add_(1)  # weights loaded after construction
    states = train(encoder, slow, 6)
    for name, value in slow.encoder.state_dict().items():
        xi = states[0][name].double()
        for state in states[1:]:
            theta = state[name].double()
            xi = 0.8 * xi + 0.2 * theta if value.is_floating_point() else theta
        torch.testing.assert_close(value.double(), xi, rtol=1e-5, atol=1e-6, msg=name)


def test_follows_the_optimisers_steps_alone():
    encoder = network()
    slow, same = vm.MomentumEncoder(encoder, momentum=0.8), vm.MomentumEncoder(encoder, momentum=0.8)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for step in range(4):
        encoder(torch.randn(8, 8)).square().mean().backward()
        slow.follow(encoder)  # at each batch; the weights move at every second
        if step % 2 == 0:
            same.update(encoder)
        else:
            optimizer.step()
    for ours, theirs in zip(slow.encoder.state_dict().values(), same.encoder.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_its_features_follow_the_encoders():
    """Without BatchNorm's statistics they were nearly orthogonal to it."""
    encoder = network()
    slow = vm.MomentumEncoder(encoder, momentum=0.9)
    train(encoder, slow, 150)
    x = 5 + 3 * torch.randn(64, 8)
    with torch.no_grad():
        cosine = torch.cosine_similarity(slow(x), encoder.eval()(x))
    assert cosine.mean() > 0.95


def test_is_not_trained_draws_nothing_and_stays_in_evaluation_mode():
    encoder = network()
    slow = vm.MomentumEncoder(encoder).train()
    x = torch.randn(6, 8, requires_grad=True)
    before = torch.get_rng_state()
    assert not slow(x).requires_grad
    assert torch.equal(slow(x), slow(x))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in slow.parameters())
    assert all(p.requires_grad for p in encoder.parameters())


def test_resumes_exactly():
    through, encoder = vm.MomentumEncoder(network(), 0.8), network()
    train(encoder, through, 3)
    resumed, encoder_again = vm.MomentumEncoder(network(), 0.8), copy.deepcopy(encoder)
    resumed.load_state_dict(through.state_dict())
    train(encoder, through, 3, seed=2)
    train(encoder_again, resumed, 3, seed=2)
    for a, b in zip(through.state_dict().values(), resumed.state_dict().values()):
        assert a == b if isinstance(a, dict) else torch.equal(a, b)


@pytest.mark.parametrize("momentum", [1.0, -0.1, 2.0, float("nan")])
def test_refuses_a_momentum_that_is_none(momentum):
    with pytest.raises(ValueError, match="momentum is"):
        vm.MomentumEncoder(network(), momentum)


def test_nothing_keeps_it_alive():
    """A global hook of its own once held every encoder, and its network, for as long as the process lived."""
    slow = vm.MomentumEncoder(torch.nn.Linear(2, 2))
    watched = weakref.ref(slow)
    del slow
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"]
)
def test_a_copy_follows_too(copied):
    encoder, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    slow = vm.MomentumEncoder(encoder, momentum=0.9)
    slow.follow(encoder)
    twin = copied(slow)
    before = twin(x)
    twin.follow(encoder)  # no optimiser has stepped: it stays
    assert torch.equal(twin(x), before)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    encoder(x).sum().backward()
    optimizer.step()
    for module in (slow, twin):
        module.follow(encoder)
    assert not torch.equal(twin(x), before)
    assert torch.equal(twin(x), slow(x))


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_the_gradient_scaler_skips_moves_nothing(fused):
    """A fused optimiser skips the step by itself: its step() is called, and counted, all the same."""
    encoder, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    slow = vm.MomentumEncoder(encoder, momentum=0.9)
    slow.follow(encoder)
    moved = []
    for factor in (1.0, float("inf"), float("nan"), 1.0, 1.0):
        before = copy.deepcopy(slow.encoder.state_dict())
        with torch.no_grad():
            encoder.bias += 0.1  # a change that only a step makes visible
        optimizer.zero_grad()
        scaler.scale(factor * encoder(x).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        slow.follow(encoder)
        moved.append(not all(torch.equal(before[k], v) for k, v in slow.encoder.state_dict().items()))
    assert moved == [True, False, False, True, True]
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    encoder(x).sum().backward()
    optimizer.step()
    before = copy.deepcopy(slow.encoder.state_dict())
    slow.follow(encoder)
    assert not torch.equal(slow.encoder.weight, before["weight"])


def test_a_plain_step_beside_a_skipped_one_counts():
    """Of two optimisers one makes a step, and a scaler skips that of the other."""
    encoder, other, x = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.ones(1, 2)
    plain = torch.optim.SGD(encoder.parameters(), lr=1.0)
    fused, scaler = torch.optim.SGD(other.parameters(), lr=1.0, fused=True), torch.amp.GradScaler("cpu")
    slow = vm.MomentumEncoder(encoder, momentum=0.9)
    slow.follow(encoder)
    before = slow.encoder.weight.clone()
    encoder(x).sum().backward()
    plain.step()
    scaler.scale(float("inf") * other(x).sum()).backward()
    scaler.step(fused)
    slow.follow(encoder)
    assert not torch.equal(slow.encoder.weight, before)
