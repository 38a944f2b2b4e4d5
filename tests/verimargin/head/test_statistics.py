import logging
import math

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from small_head import batch, head_with
from torch.nn import functional as F


def expected(embeddings, weight, labels, alpha, scale, m):
    """Active classes, zero loss and target cosine of a batch, from the formulas; and which classes have a gradient."""
    active, zero, touched = [], [], np.zeros(len(weight), bool)
    cosine = reference.cosines(embeddings.numpy(), weight.numpy())
    for row, y in zip(cosine, labels.tolist()):
        log_q = np.zeros(len(row))
        log_q[y] = -scale * m
        p, _ = reference.softargmax(scale * row, alpha, log_q)
        one_hot = np.arange(len(row)) == y
        active.append((p > 1e-12).sum())
        zero.append(not (p[~one_hot] > 1e-12).any())
        touched |= abs(p - one_hot) > 1e-12
    return np.mean(active), np.mean(zero), np.mean(cosine[np.arange(len(labels)), labels]), touched


@pytest.mark.parametrize("source", ["head", "loss"])
def test_means_and_untouched_prototypes_are_those_of_the_formulas(source):
    loss = vm.q_margin(1.5, 9.0, 0.1)
    _, weight, _ = batch()
    head = head_with(weight, loss)
    statistics = vm.TrainingStatistics(head if source == "head" else loss)
    found, touched = [], np.zeros(len(weight), bool)
    for seed in range(3):
        embeddings, _, labels = batch(seed=seed)
        embeddings = embeddings if seed < 2 else 9 * F.normalize(weight)[labels] + 0.1 * embeddings  # some are learnt
        if source == "head":
            value = head(embeddings, labels)
            statistics.update()
        else:
            cosine = head.cosine(embeddings).unsqueeze(1)
            value = loss(cosine.squeeze(1), labels)
            statistics.update(cosine)
        value.backward()
        head.weight.grad = None
        *means, seen = expected(embeddings, weight, labels, 1.5, 9.0, 0.1)
        found.append(means)
        touched |= seen
    assert 0 < np.mean(found, 0)[1] < 1
    active, zero, cosine = np.mean(found, 0)
    want = {"active classes": active, "zero loss": zero, "target cosine": cosine, "margin": 0.1, "scale": 9.0}
    assert statistics.read() == pytest.approx(want, rel=1e-9)
    assert 0 < statistics.without_gradient() == (~touched).sum() < len(weight)
    assert statistics.without_gradient() is None
    assert statistics.read() == {"margin": 0.1, "scale": 9.0}


def test_with_subcenters_a_class_counts_by_its_nearest():
    torch.manual_seed(0)
    head = vm.PrototypeHead(32, 40, vm.q_margin(1.5, 20.0, 0.2), subcenters=3)
    statistics = vm.TrainingStatistics(head)
    x, labels = torch.randn(5, 32), torch.arange(5)
    loss = head(x, labels)
    statistics.update()
    loss.backward()
    assert statistics.read()["target cosine"] == pytest.approx(
        float(head.cosine(x)[labels, labels].mean().detach()), abs=1e-6
    )
    touched = (head.weight.grad != 0).flatten(1).any(1)
    assert 0 < statistics.without_gradient() == int((~touched).sum())


def test_a_dense_loss_has_no_active_classes_to_count():
    head = vm.PrototypeHead(16, 30, vm.arcface())
    statistics = vm.TrainingStatistics(head)
    loss = head(torch.randn(4, 16), torch.arange(4))
    statistics.update()
    loss.backward()
    assert set(statistics.read()) == {"target cosine", "margin", "scale"}
    assert statistics.without_gradient() == 0


def test_evaluation_leaves_the_last_steps_values():
    head = vm.PrototypeHead(16, 30, vm.q_margin())
    head(torch.randn(4, 16), torch.arange(4))
    before = head.target_cosine
    head.eval()(torch.randn(4, 16), torch.arange(4))
    assert head.target_cosine is before
    loss = vm.q_margin()
    loss(torch.rand(4, 30, requires_grad=True), torch.arange(4))
    before = loss.active_classes
    with torch.no_grad():
        loss(torch.rand(4, 30), torch.arange(4))
    assert loss.active_classes is before


def on_two_ranks(rank):
    torch.manual_seed(0)
    head = vm.PrototypeHead(16, 301, vm.q_margin(1.5, 9.0, 0.1), process_group=torch.distributed.group.WORLD).double()
    start, size = head.shard.start, head.shard.size
    embeddings, weight, labels = batch(samples=12)
    head.weight.data.copy_(weight[start : start + size])
    statistics = vm.TrainingStatistics(head)
    loss = head(embeddings[rank * 6 : rank * 6 + 6], labels[rank * 6 : rank * 6 + 6])
    statistics.update()
    loss.backward()
    return statistics.read(), statistics.without_gradient()


def test_ranks_agree_on_what_one_process_finds():
    embeddings, weight, labels = batch(samples=12)
    active, zero, cosine, touched = expected(embeddings, weight, labels, 1.5, 9.0, 0.1)
    for means, without in on_ranks(2, on_two_ranks):
        assert [means[name] for name in ("active classes", "zero loss", "target cosine")] == pytest.approx(
            [active, zero, cosine], rel=1e-9
        )
        assert without == (~touched).sum()


def warning_of(caplog, head, steps=20):
    caplog.clear()
    statistics = vm.TrainingStatistics(head)
    for _ in range(steps):
        head(torch.randn(4, head.embedding_size), torch.arange(4))
        statistics.update()
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_almost_dense_and_almost_empty_posteriors_are_reported_once(caplog):
    torch.manual_seed(0)
    assert not warning_of(caplog, vm.PrototypeHead(64, 300, vm.q_margin(**vm.suggest(300, 64))), 60)
    dense = vm.PrototypeHead(64, 300, vm.q_margin(1.25, 4.0, 0.2))
    assert not warning_of(caplog, dense, 19)
    (message,) = warning_of(caplog, dense, 60)
    assert "of 300 classes were active, which is almost all of them" in message
    better = vm.suggest(300, 64)
    assert f"alpha {better['alpha']:g} with scale {better['scale']:g} is a better start" in message
    (message,) = warning_of(caplog, vm.PrototypeHead(64, 300, vm.q_margin(2.0, 64.0, 0.2)), 60)
    assert "almost none" in message
    assert not warning_of(caplog, vm.PrototypeHead(64, 300, vm.arcface()))


def test_reading_does_not_disturb_the_first_steps(caplog):
    head = vm.PrototypeHead(64, 300, vm.q_margin(1.25, 4.0, 0.2))
    statistics = vm.TrainingStatistics(head)
    for _ in range(25):
        head(torch.randn(4, 64), torch.arange(4))
        statistics.update()
        assert not math.isnan(statistics.read()["active classes"])
    assert "of 300 classes were active" in caplog.text
