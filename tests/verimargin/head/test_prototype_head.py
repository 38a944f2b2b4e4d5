import copy
import io
import math

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from small_head import LOSSES, WITH_QUALITY, batch, head_with, plain_step, step
from torch.autograd import gradcheck

ALL = {**LOSSES, **WITH_QUALITY}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("name", ALL)
def test_equals_the_loss_of_all_cosines(name, dtype, tolerance):
    embeddings, weight, labels = batch(dtype=dtype)
    loss = ALL[name]()
    expected = plain_step(ALL[name](), *batch()[:2], labels)
    for ours, truth in zip(step(head_with(weight, loss), embeddings, labels), expected):
        largest = max(1.0, float(truth.abs().max()))
        torch.testing.assert_close(ours.double(), truth, atol=tolerance * largest, rtol=0)


@pytest.mark.parametrize(
    ("name", "m", "alpha"),
    [("QMargin", 0.2, 1.25), ("ArcMargin", 0.3, 1.0), ("CosMargin", 0.2, 1.5), ("QMargin", 0.2, 2.5)],
)
def test_equals_the_reference(name, m, alpha):
    embeddings, weight, labels = batch()
    head = head_with(weight, vm.MarginLoss(getattr(vm, name)(m), alpha, scale=12.0))
    expected = reference.head_loss(embeddings.numpy(), weight.numpy(), labels.tolist(), name, m, alpha, 12.0)
    assert float(head(embeddings, labels).detach()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_derivatives(name):
    embeddings, weight, labels = batch(4, 301 if name == "adaptive" else 9, 5)
    head = head_with(weight, LOSSES[name]())

    def loss(e, w):
        return torch.func.functional_call(head, {"weight": w}, (e, labels))

    rows = slice(0, 9)  # the numeric derivative of 301 classes would take minutes
    part = weight[rows].clone().requires_grad_()
    assert gradcheck(
        lambda e, p: loss(e, torch.cat([p, weight[9:]])),
        (embeddings.requires_grad_(), part),
        fast_mode=name == "adaptive",
    )


@pytest.mark.parametrize("name", ["q-margin", "arcface"])
def test_without_gradients(name):
    embeddings, weight, labels = batch()
    head = head_with(weight, LOSSES[name]())
    expected = head(embeddings, labels).detach()
    with torch.no_grad():
        assert head(embeddings, labels) == expected
    with torch.inference_mode():
        assert head(embeddings, labels) == expected
    frozen = embeddings.clone().requires_grad_()
    head.weight.requires_grad_(False)
    head(frozen, labels).backward()
    torch.testing.assert_close(frozen.grad, plain_step(LOSSES[name](), embeddings, weight, labels)[1])


def test_compiled_equals_eager():
    """For alpha = 1; test_screening.py has the same for alpha > 1, whose trace takes long."""
    name = "arcface"
    embeddings, weight, labels = batch(6, 301, 8)
    head = head_with(weight, LOSSES[name]())
    compiled = torch.compile(lambda e: head(e, labels), backend="aot_eager")
    e = embeddings.clone().requires_grad_()
    loss = compiled(e)
    gradients = torch.autograd.grad(loss, (e, head.weight))
    torch.testing.assert_close((loss.detach(), *gradients), plain_step(LOSSES[name](), embeddings, weight, labels))


def test_copies_and_files():
    embeddings, weight, labels = batch(dtype=torch.float32)
    head = head_with(weight, LOSSES["q-margin"]())
    step(head, embeddings, labels)
    clone, file = copy.deepcopy(head), io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    for other in (clone, torch.load(file, weights_only=False)):
        torch.testing.assert_close(step(other, embeddings, labels), step(head, embeddings, labels))
    fresh = vm.PrototypeHead(16, 301, LOSSES["q-margin"]())
    fresh.load_state_dict(head.state_dict())
    assert torch.equal(fresh.weight, head.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["q-margin", "arcface"])
def test_autocast_changes_nothing_but_the_embeddings(name, dtype):
    embeddings, weight, labels = batch(dtype=torch.float32)
    head = head_with(weight, LOSSES[name]())
    half = embeddings.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, grad, grad_weight = step(head, half, labels)
    expected = step(head, half.float(), labels)
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(grad, expected[1].to(dtype))
    torch.testing.assert_close(grad_weight, expected[2])
    assert head.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["q-margin", "arcface"])
def test_edge_shapes(name):
    embeddings, weight, labels = batch(dtype=torch.float32)
    head = head_with(weight, LOSSES[name]())
    loss, grad, grad_weight = step(head, embeddings[:0], labels[:0])
    assert loss == 0
    assert grad.shape == (0, 16)
    assert not grad_weight.any()
    one = head_with(weight[:1], LOSSES[name]())
    assert float(step(one, embeddings, torch.zeros_like(labels))[0]) == pytest.approx(0, abs=1e-5)
    head.weight.data[5] = 0  # a dead prototype has cosine 0 with everything
    assert all(bool(torch.isfinite(t).all()) for t in step(head, embeddings, labels))
    same = torch.full_like(labels, 3)
    torch.testing.assert_close(
        step(head, embeddings, same),
        plain_step(LOSSES[name](), embeddings, head.weight.data, same),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", WITH_QUALITY)
def test_the_reference_with_a_quality_of_each_sample(name, dtype):
    """In half precision too, the norms are those of the embeddings that are given, in float32."""
    embeddings, weight, labels = batch(dtype=torch.float32)
    embeddings = (embeddings * torch.linspace(0.2, 3.0, 13)[:, None]).to(dtype)
    loss = WITH_QUALITY[name]()
    head = head_with(weight, loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = float(head(embeddings, labels).detach())
    rows = embeddings.double().numpy()
    quality = reference.Quality(loss.margin.quality.weight, h=5.0)
    quality.update(np.linalg.norm(rows, axis=1))
    g = quality.of(np.linalg.norm(rows, axis=1))
    assert g.max() - g.min() > 0.5
    given = rows, weight.double().numpy(), labels.tolist(), type(loss.margin).__name__, loss.margin.m
    assert found == pytest.approx(reference.head_loss(*given, loss.alpha, 20.0, g), rel=1e-5)


@pytest.mark.parametrize("name", WITH_QUALITY)
def test_few_samples_with_a_quality(name):
    embeddings, weight, labels = batch(dtype=torch.float32)
    head = head_with(weight, WITH_QUALITY[name]())
    loss, grad, grad_weight = step(head, embeddings[:0], labels[:0])
    assert loss == 0
    assert grad.shape == (0, 16)
    assert not grad_weight.any()
    assert all(bool(torch.isfinite(t).all()) for t in step(head, embeddings[:1], labels[:1]))
    assert (float(head.loss.margin.quality.mean) - 20.0) == pytest.approx(
        0.01 * float(embeddings[0].norm() - 20.0), rel=1e-4
    )
    assert float(head.loss.margin.quality.std) == 100.0
    sampled = head_with(weight, WITH_QUALITY[name](), sample_rate=0.2)
    assert all(bool(torch.isfinite(t).all()) for t in step(sampled, embeddings, labels))


@pytest.mark.parametrize("name", ["q-margin", "arcface", "adaptive"])
def test_sampling_keeps_the_positives_and_each_class_its_margin(name):
    embeddings, weight, labels = batch(dtype=torch.float64)
    head = head_with(weight, LOSSES[name](), sample_rate=0.2)
    torch.manual_seed(5)
    loss, _, grad_weight = step(head, embeddings, labels)
    torch.manual_seed(5)
    order = torch.rand(301)
    order[labels] = 2.0
    index = order.topk(60).indices.sort().values
    subset_loss = LOSSES[name]()
    if subset_loss.margin.psi is not None:
        subset_loss.margin.psi = subset_loss.margin.psi[index]
    expected = plain_step(subset_loss, embeddings, weight[index], torch.searchsorted(index, labels))
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(grad_weight[index], expected[2])
    assert not grad_weight[order < order[index].min()].any()
    full = head.eval()(embeddings, labels).detach()
    torch.testing.assert_close(full, plain_step(LOSSES[name](), embeddings, weight, labels)[0])
    tiny = head_with(weight, LOSSES[name](), sample_rate=0.001)
    assert bool(torch.isfinite(step(tiny, embeddings, labels)[0]))
    assert step(tiny, embeddings[:0], labels[:0])[0] == 0


SHARDED = ["q-margin", "alpha 3", "sparsemax arc", "arcface", "adaptive", *WITH_QUALITY]


def _sharded_steps(rank, sizes):
    embeddings, weight, labels = batch()
    mine = torch.arange(13).split(sizes)[rank]
    results = {}
    for name in SHARDED:
        group = torch.distributed.group.WORLD
        head = vm.PrototypeHead(16, 301, ALL[name](), process_group=group).double()
        first = head.shard.start
        head.weight.data.copy_(weight[first : first + head.shard.size])
        loss, grad, grad_weight = step(head, embeddings[mine], labels[mine])
        results[name] = first, loss, grad / head.shard.ranks, grad_weight
    return results


@pytest.mark.parametrize(("ranks", "sizes"), [(1, [13]), (2, [5, 8]), (3, [6, 0, 7])])
def test_sharded_equals_unsharded(ranks, sizes):
    """301 classes divide by neither 2 nor 3, and the ranks hold different numbers of samples."""
    embeddings, weight, labels = batch()
    by_rank = on_ranks(ranks, _sharded_steps, sizes)
    for name in SHARDED:
        loss, grad, grad_weight = plain_step(ALL[name](), embeddings, weight, labels)
        results = [result[name] for result in by_rank]
        assert [first for first, *_ in results] == [0, *[301 - (ranks - r) * (301 // ranks) for r in range(1, ranks)]]
        for _, rank_loss, *_ in results:
            torch.testing.assert_close(rank_loss, loss)
        torch.testing.assert_close(torch.cat([part for _, _, part, _ in results]), grad)
        torch.testing.assert_close(torch.cat([part for *_, part in results]), grad_weight)


def _initial(rank, ranks):
    torch.manual_seed(1)
    group = torch.distributed.group.WORLD if ranks > 1 else None
    return vm.PrototypeHead(4, 3001, vm.cosface(), process_group=group).weight.data


def test_first_prototypes_do_not_depend_on_the_ranks():
    alone = _initial(0, 1)
    assert float(alone.std()) == pytest.approx(0.01, rel=0.05)
    assert torch.equal(torch.cat(on_ranks(2, _initial, 2)), alone)


def test_training_with_it_equals_training_without():
    """A small backbone takes the same way through the streamed head as through the plain loss."""
    embeddings, weight, labels = batch(64, 50, 8, torch.float32)

    def train(criterion, prototypes):
        torch.manual_seed(0)
        backbone = torch.nn.Linear(8, 8)
        optimiser = torch.optim.SGD([*backbone.parameters(), prototypes], lr=0.1, momentum=0.9)
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = criterion(backbone(embeddings))
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses

    head = head_with(weight, LOSSES["q-margin"]())
    plain = torch.nn.Parameter(weight.clone())
    normalize = torch.nn.functional.normalize
    loss = LOSSES["q-margin"]()
    ours = train(lambda e: head(e, labels), head.weight)
    theirs = train(lambda e: loss(normalize(e) @ normalize(plain).T, labels), plain)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < 0.5 * ours[0]


def with_prototype(value, loss):
    head = vm.PrototypeHead(4, 3, loss)
    head.weight.data[2] = value
    return head


HEAD = vm.PrototypeHead(4, 3, vm.q_margin(1.5, 10.0, 0.2))
E, Y = torch.ones(2, 4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HEAD(E, torch.tensor([0, 3])), "label 3 of sample 1 is outside 0..2: there are 3 classes"),
        (lambda: HEAD(E, torch.tensor([0, -1])), "label -1 of sample 1"),
        (lambda: HEAD(E, Y.float()), "float32"),
        (lambda: HEAD(E, Y[:1]), r"shape \(1,\)"),
        (lambda: HEAD(E[:, :3], Y), r"embeddings have shape \(2, 3\): give \(B, 4\)"),
        (lambda: HEAD(E * torch.tensor([[1.0], [math.nan]]), Y), "sample 1 has nan among its embedding values"),
        (lambda: HEAD(E * torch.tensor([[math.inf], [1.0]]), Y), "sample 0 has inf"),
        (lambda: HEAD(E * torch.tensor([[1.0], [0.0]]), Y), "embedding of sample 1 has norm 0 and so no direction"),
        (lambda: HEAD(E * torch.tensor([[1.0], [1e30]]), Y), "embedding of sample 1 has norm inf"),
        (lambda: with_prototype(math.nan, vm.q_margin(1.5, 10.0, 0.2))(E, Y), "prototype 2 of this step has norm nan"),
        (lambda: with_prototype(1e30, vm.cosface())(E, Y), "prototype 2 of this step has norm inf"),
        (lambda: HEAD(E.to("meta"), Y), "the embeddings are on meta, the head on cpu"),
        (lambda: copy.deepcopy(HEAD).half()(E, Y), "the head is torch.float16"),
        (lambda: vm.PrototypeHead(0, 3, vm.cosface()), "embedding_size is 0"),
        (lambda: vm.PrototypeHead(4, 2.5, vm.cosface()), "num_classes is 2.5"),
        (lambda: vm.PrototypeHead(math.inf, 3, vm.cosface()), "embedding_size is inf"),
        (lambda: vm.PrototypeHead(4, 3, vm.cosface(), sample_rate=0), r"sample_rate is 0: give a number in \(0, 1\]$"),
        (lambda: vm.PrototypeHead(4, 3, vm.cosface(), 3), "sample_rate is 3: .* prototypes per class is `subcenters`"),
        (lambda: vm.PrototypeHead(4, 3, torch.nn.CrossEntropyLoss()), "give a MarginLoss"),
        (lambda: vm.PrototypeHead(4, 3, vm.kappaface(5)), "psi for 5 classes, the head has 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
