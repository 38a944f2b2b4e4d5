import copy
import logging
import math

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from small_head import WITH_QUALITY, batch, head_with, plain_step, step
from torch.utils.checkpoint import checkpoint

BATCHES = [[18.0, 25.0, 1e-9, 3.0], [1e6, 30.0], [12.0], [], [7.0, 7.0, 8.5]]


def assert_averages(quality, expected):
    assert (float(quality.mean), float(quality.std)) == pytest.approx((expected.mean, expected.std), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [{"weight": 1.0}, {"weight": 0.6, "h": 4.0, "momentum": 0.3}])
def test_follows_the_batches_as_the_formulas_say(options, dtype):
    quality, expected = vm.Quality(**options).to(dtype), reference.Quality(**options)
    for norms in BATCHES:
        quality.update(torch.tensor(norms, dtype=dtype))
        expected.update(norms)
        assert_averages(quality, expected)
        np.testing.assert_allclose(quality(torch.tensor(norms, dtype=dtype)), expected.of(norms), rtol=2e-5, atol=1e-6)


def test_the_first_average_is_the_authors():
    """Worked by hand: 0.01 * 30 + 0.99 * 20, and 0.01 * sqrt(200) + 0.99 * 100."""
    quality = vm.Quality(weight=1.0, h=0.333, momentum=0.01)
    quality.update(torch.tensor([20.0, 40.0]))
    assert float(quality.mean) == pytest.approx(20.1)
    assert float(quality.std) == pytest.approx(99.0 + 0.01 * math.sqrt(200.0))
    assert float(quality(torch.tensor([40.0]))) == pytest.approx(0.333 * 19.9 / (float(quality.std) + 0.001))
    assert quality(torch.tensor([1e30, 0.0])).tolist() == pytest.approx(
        [0.333 * (100.0 - 20.1) / (float(quality.std) + 0.001), 0.333 * (0.001 - 20.1) / (float(quality.std) + 0.001)]
    )


def test_one_sample_none_and_broken_ones_leave_finite_averages():
    quality, expected = vm.Quality(momentum=0.5), reference.Quality(0.5, momentum=0.5)
    for norms in ([30.0], [], [math.nan, 10.0, math.inf, 14.0], [math.nan]):
        quality.update(torch.tensor(norms))
        expected.update([norm for norm in norms if math.isfinite(norm)])
        assert_averages(quality, expected)


def test_half_precision_norms_are_taken_in_float32():
    """In float16, the squares of norms of 100 sum to infinity."""
    quality, expected = vm.Quality(momentum=0.5), reference.Quality(0.5, momentum=0.5)
    norms = torch.linspace(60, 100, 64).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quality.update(norms)
        g = quality(norms)
    expected.update(norms.double().numpy())
    assert_averages(quality, expected)
    assert g.dtype == torch.float32
    np.testing.assert_allclose(g, expected.of(norms.double().numpy()), rtol=1e-5)


def test_the_norms_get_no_gradient():
    norms = torch.tensor([5.0, 50.0], requires_grad=True)
    quality = vm.Quality()
    quality.update(norms)
    assert not quality(norms).requires_grad


@pytest.mark.parametrize("name", WITH_QUALITY)
def test_only_training_steps_count_and_each_once(name):
    embeddings, weight, labels = batch()
    head, expected = head_with(weight, WITH_QUALITY[name]()), reference.Quality(1.0)
    norms = embeddings.norm(dim=1).numpy()
    quality = head.loss.margin.quality
    head(embeddings, labels)
    expected.update(norms)
    assert_averages(quality, expected)
    head.eval()
    head(embeddings, labels)
    head.loss(head.cosine(embeddings), labels, embeddings.norm(dim=1))
    assert_averages(quality, expected)
    head.train()
    for reentrant in (True, False):  # the forward pass is computed again in the backward pass
        e = embeddings.clone().requires_grad_()
        loss = checkpoint(head, e, labels, use_reentrant=reentrant)
        expected.update(norms)
        loss.backward()
        assert_averages(quality, expected)
    head.loss(head.cosine(embeddings), labels, embeddings.norm(dim=1))
    expected.update(norms)
    assert_averages(quality, expected)


@pytest.mark.parametrize("name", WITH_QUALITY)
def test_a_resumed_training_goes_on_exactly(name):
    embeddings, weight, labels = batch(dtype=torch.float32)

    def train(head, steps):
        return [step(head, embeddings * (1 + i), labels) for i in steps]

    whole = train(head_with(weight, WITH_QUALITY[name]()), range(4))
    first = head_with(weight, WITH_QUALITY[name]())
    train(first, range(2))
    second = vm.PrototypeHead(16, 301, WITH_QUALITY[name]())
    second.load_state_dict(first.state_dict())
    assert {"loss.margin.quality.mean", "loss.margin.quality.std"} <= set(second.state_dict())
    for found, expected in zip(train(second, range(2, 4)), whole[2:]):
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def _averages(rank, sizes, how):
    embeddings, weight, labels = batch()
    mine = torch.arange(13).split(sizes)[rank]
    results = {}
    for name, make in WITH_QUALITY.items():
        if how == "sharded":
            head = vm.PrototypeHead(16, 301, make(), process_group=torch.distributed.group.WORLD).double()
            head.weight.data.copy_(weight[head.shard.start :][: head.shard.size])
        else:
            head = head_with(weight, make())
        call = head if how != "cosines" else (lambda e, y, h=head: h.loss(h.cosine(e), y, e.norm(dim=1)))
        for factor in (1.0, 3.0):
            call(factor * embeddings[mine], labels[mine])
        quality = head.loss.margin.quality
        results[name] = quality.mean.clone(), quality.std.clone()
    return results


@pytest.mark.parametrize("how", ["sharded", "each its own head", "cosines"])
def test_all_ranks_have_the_averages_of_all_samples(how):
    expected = reference.Quality(1.0)
    for factor in (1.0, 3.0):
        expected.update(factor * batch()[0].norm(dim=1).numpy())
    by_rank = on_ranks(3, _averages, [6, 0, 7], how)
    for name in WITH_QUALITY:
        assert all(rank[name] == by_rank[0][name] for rank in by_rank)
        assert [float(x) for x in by_rank[0][name]] == pytest.approx([expected.mean, expected.std], rel=1e-6)


def _refusal(rank):
    loss = vm.q_margin(quality=vm.Quality(0.5)) if rank else vm.q_margin()
    try:
        vm.PrototypeHead(4, 6, loss, process_group=torch.distributed.group.WORLD)
    except ValueError as error:
        return str(error)


def test_all_ranks_need_the_same_settings():
    for message in on_ranks(2, _refusal):
        assert "the quality's weight is 0 on rank 0 and 0.5 on rank 1: give all ranks the same settings" in message


def test_the_settings_are_no_state(caplog):
    """A saved run's averages are taken over, the weight that a config names is kept."""
    saved, resumed = (vm.q_margin(1.5, 10.0, 0.2, vm.Quality(weight)) for weight in (0.5, 0.25))
    saved.margin.quality.update(torch.tensor([30.0, 40.0]))
    with caplog.at_level(logging.INFO, logger="verimargin"):
        resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert resumed.margin.quality.mean == saved.margin.quality.mean
    assert resumed.margin.quality.weight == 0.25
    assert repr(resumed.margin.quality) == "Quality(weight=0.25, h=0.333, momentum=0.01)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vm.Quality(1.5), r"the quality's weight is 1.5: give a number in \[0, 1\]"),
        (lambda: vm.Quality(h=0.0), "h is 0.0: give a finite number > 0"),
        (lambda: vm.Quality(momentum=0.0), "the quality's momentum is 0.0"),
        (lambda: vm.Quality()(None), r"norms of the embeddings .* are missing: call loss\(cosine, target, norms\)"),
        (
            lambda: vm.adaface().half().margin.quality(torch.ones(2)),
            r"averages .* are torch\.float16.*: keep the loss in",
        ),
        (lambda: vm.Quality().bfloat16().update(torch.ones(2)), r"averages .* are torch\.bfloat16"),
        (lambda: vm.Quality().to("meta")(torch.ones(2)), "norms are on meta, but the batch on cpu: move the loss"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_compiled_equals_eager():
    """In float64 too, where averages without dimensions stayed at their start values."""
    embeddings, weight, labels = batch(6, 301, 8)
    head, plain = head_with(weight, WITH_QUALITY["adaface"]()), WITH_QUALITY["adaface"]()
    compiled = torch.compile(lambda e: head(e, labels), backend="aot_eager")
    for _ in range(2):
        e = embeddings.clone().requires_grad_()
        loss = compiled(e)
        gradients = torch.autograd.grad(loss, (e, head.weight))
        torch.testing.assert_close((loss.detach(), *gradients), plain_step(plain, embeddings, weight, labels))
        assert head.loss.margin.quality.mean == plain.margin.quality.mean != 20.0


@pytest.mark.parametrize(
    ("scale", "spread", "told"),
    [(1.0, 0.0, True), (1.0, 1e-4, True), (500.0, 0.1, True), (20.0, 0.01, False), (20.0, 0.1, False)],
    ids=["normalised", "normalised in half precision", "all clipped", "much alike", "as they are"],
)
@pytest.mark.parametrize("how", ["head", "loss"])
def test_norms_that_do_not_differ_are_told_once(how, scale, spread, told, caplog):
    """AdaFace on normalised embeddings trained with one margin for all, without a word."""
    draw = torch.Generator().manual_seed(0)
    head, labels = vm.PrototypeHead(16, 9, vm.adaface()), torch.arange(9)
    for _ in range(60):
        lengths = scale * (1.0 + spread * torch.randn(9, 1, generator=draw))
        e = torch.nn.functional.normalize(torch.randn(9, 16, generator=draw)) * lengths
        if how == "head":
            head(e, labels)
        else:
            head.loss(head.cosine(e), labels, e.norm(dim=1))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == told
    if told:
        assert f"in the first 20 steps the norms of the embeddings were all {min(scale, 100.0):g}, so" in messages[0]


def test_single_samples_and_validation_say_nothing_about_the_norms(caplog):
    quality = vm.adaface().eval().margin.quality
    for _ in range(30):
        quality.update(torch.ones(1))
        quality.update(torch.ones(0))
    assert not caplog.records
