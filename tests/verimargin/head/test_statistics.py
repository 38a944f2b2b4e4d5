import copy
import gc
import io
import logging
import math
import weakref

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from small_head import batch, head_with
from torch.nn import functional as F
from verimargin.head import statistics as statistics_module


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


def trained(head, statistics):
    """One step, and what is then known of the prototypes."""
    head(torch.randn(4, 16), torch.arange(4)).backward()
    statistics.update()
    head.weight.grad = None
    head(torch.randn(4, 16), torch.arange(4)).backward()
    return statistics.without_gradient()


def saved_and_loaded(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_copies_see_their_own_prototypes(copied):
    """The copy's prototypes had no hook, so that their number was never known."""
    head = vm.PrototypeHead(16, 30, vm.q_margin())
    statistics = vm.TrainingStatistics(head)
    other, of_other = copied((head, statistics))
    assert 0 < trained(other, of_other) < 30
    assert statistics.without_gradient() is None
    assert 0 < trained(head, statistics) < 30


def test_prototypes_that_replace_others_are_seen_and_frozen_ones_left_alone():
    """Frozen prototypes were refused by torch, and replaced ones were no longer seen."""
    head = vm.PrototypeHead(16, 30, vm.q_margin())
    statistics = vm.TrainingStatistics(head)
    head.load_state_dict(vm.PrototypeHead(16, 30, vm.q_margin()).state_dict(), assign=True)
    assert 0 < trained(head, statistics) < 30

    head.weight.requires_grad_(False)
    statistics = vm.TrainingStatistics(head)
    head(torch.randn(4, 16, requires_grad=True), torch.arange(4)).backward()
    statistics.update()
    assert statistics.without_gradient() is None
    assert "target cosine" in statistics.read()
    head.weight.requires_grad_(True)
    assert 0 < trained(head, statistics) < 30


def test_statistics_keep_no_memory_alive():
    """A hook that refers to its own tensor is never freed, and with it the prototypes."""
    head = vm.PrototypeHead(16, 30, vm.q_margin())
    statistics = vm.TrainingStatistics(head)
    trained(head, statistics)
    kept = weakref.ref(head)
    del head, statistics
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("source", ["head", "loss"])
def test_a_batch_without_samples_does_not_count(source):
    """Its means are nan, which took the other steps with it, and it was a cosine of 0."""
    torch.manual_seed(0)
    loss = vm.q_margin(1.5, 9.0, 0.1)
    head = vm.PrototypeHead(16, 30, loss)
    statistics, plain = (vm.TrainingStatistics(head if source == "head" else loss) for _ in range(2))
    embeddings, labels = torch.randn(4, 16), torch.arange(4)
    for samples in (4, 0):
        cosine = head.cosine(embeddings[:samples])
        head(embeddings[:samples], labels[:samples])
        loss(cosine, labels[:samples])
        for each in (statistics, plain) if samples else (statistics,):
            each.update(None if source == "head" else cosine)
    found = statistics.read()
    assert found == plain.read()
    assert {"active classes", "zero loss", "target cosine"} <= set(found)


def test_empty_batches_do_not_silence_the_warning(caplog):
    head = vm.PrototypeHead(64, 300, vm.q_margin(1.25, 4.0, 0.2))
    statistics = vm.TrainingStatistics(head)
    for step in range(20):
        samples = 4 * (step != 3)
        head(torch.randn(samples, 64), torch.arange(samples))
        statistics.update()
    assert "of 300 classes were active, which is almost all of them" in caplog.text
    caplog.clear()
    statistics = vm.TrainingStatistics(vm.PrototypeHead(64, 300, vm.q_margin()))
    for _ in range(20):
        statistics.update()  # nothing was computed
    assert not caplog.records


@pytest.mark.parametrize("classes", [1, 2])
def test_so_few_classes_are_no_reason_for_a_warning(classes, caplog):
    """Two classes were always 'almost none', with the advice of settings for them."""
    head = vm.PrototypeHead(16, classes, vm.q_margin())
    statistics = vm.TrainingStatistics(head)
    for _ in range(20):
        head(torch.randn(4, 16), torch.arange(4) % classes)
        statistics.update()
    assert not caplog.records


@pytest.mark.parametrize("loss", [vm.arcface(), vm.q_margin(1.5, 9.0, 0.1)])
@pytest.mark.parametrize("begun", [False, True])
def test_a_training_that_has_not_begun_is_told(loss, begun, caplog, monkeypatch):
    """844 steps of Q-Margin from long prototypes left the cosine with the own one at 0.04, and nothing said so."""
    monkeypatch.setattr(statistics_module, "BEGUN_STEPS", 40)
    monkeypatch.setattr(statistics_module, "LAST_STEPS", 5)
    torch.manual_seed(0)
    head = vm.PrototypeHead(64, 200, loss)
    statistics = vm.TrainingStatistics(head)
    for step in range(60):
        labels = torch.randint(200, (8,))
        noise = torch.randn(8, 64)
        turned = begun and 35 <= step < 40  # only the last steps count
        head(F.normalize(noise) + 0.5 * turned * F.normalize(head.weight.detach()[labels]), labels)
        statistics.update()
    told = [record.getMessage() for record in caplog.records if "has not begun" in record.getMessage()]
    assert len(told) == (not begun)
    if told:
        assert told[0].startswith("after 40 steps the mean cosine between an embedding and its prototype is ")
        assert ("smaller scale or alpha" in told[0]) == (loss.alpha > 1.0)


def test_what_the_statistics_need_is_asked_for_by_name():
    with pytest.raises(ValueError, match=r"is Linear.*: give a PrototypeHead or a MarginLoss"):
        vm.TrainingStatistics(torch.nn.Linear(2, 2))
    loss = vm.q_margin()
    loss(torch.rand(4, 30, requires_grad=True), torch.arange(4))
    with pytest.raises(ValueError, match=r"without the cosines.*: update\(cosine\)"):
        vm.TrainingStatistics(loss).update()
