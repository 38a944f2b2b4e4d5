"""A head with K prototypes per class, and what is left of it when it is pruned."""

import io
import math

import pytest
import torch
import torch.distributed as dist
import verimargin as vm
from distributed import on_ranks
from small_head import LOSSES, step
from torch.nn import functional as F
from verimargin.head import screening as screening_module
from verimargin.head import streaming
from verimargin.head.subcenters import prune_subcenters

CLASSES, K, SIZE = 301, 3, 16


def batch(samples=13, classes=CLASSES, subcenters=K, size=SIZE, dtype=torch.float64):
    """Embeddings near one of the sub-centres of their class."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = normal(classes, subcenters, size) * (0.01 + normal(classes, subcenters, 1).abs())
    labels = torch.randint(classes, (samples,), generator=generator)
    center = torch.randint(subcenters, (samples,), generator=generator)
    embeddings = 5 * (F.normalize(weight, dim=2)[labels, center] + 0.3 * normal(samples, size))
    return embeddings.to(dtype), weight.to(dtype), labels


def head_with(weight, loss, **options):
    classes, subcenters, size = weight.shape
    head = vm.PrototypeHead(size, classes, loss, subcenters=subcenters, **options).to(weight.dtype)
    head.weight.data.copy_(weight)
    return head


def plain_step(loss, embeddings, weight, labels):
    embeddings, weight = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    cosine = torch.einsum("bd,ckd->bck", F.normalize(embeddings), F.normalize(weight, dim=2)).amax(2)
    value = loss(cosine, labels)
    return value.detach(), *torch.autograd.grad(value, (embeddings, weight))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_both_gradients(name):
    embeddings, weight, labels = batch()
    found = step(head_with(weight, LOSSES[name]()), embeddings, labels)
    assert found[2].shape == weight.shape
    for ours, theirs in zip(found, plain_step(LOSSES[name](), embeddings, weight, labels)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["q-margin", "arcface"])
@pytest.mark.parametrize("subcenters", [2, 5])
def test_more_classes_than_a_chunk_holds(name, subcenters, monkeypatch):
    monkeypatch.setattr(streaming, "FIRST", 96)
    monkeypatch.setattr(streaming, "chunk_size", lambda *_: 640)
    embeddings, weight, labels = batch(5, 1001, subcenters, 8)
    found = step(head_with(weight, LOSSES[name]()), embeddings, labels)
    for ours, theirs in zip(found, plain_step(LOSSES[name](), embeddings, weight, labels)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("screening", ["int8", "bfloat16", "float16"])
def test_screened(screening, monkeypatch):
    monkeypatch.setattr(screening_module, "_obstacle", lambda *_: None)
    monkeypatch.setattr(streaming, "FIRST", 96)
    monkeypatch.setattr(streaming, "chunk_size", lambda *_: 320)
    monkeypatch.setattr(streaming, "SPARSE", 1.0)
    calls = []
    kind = screening_module.SCREENS[getattr(torch, screening)]
    above = kind.above
    monkeypatch.setattr(kind, "above", lambda *arguments: calls.append(1) or above(*arguments))
    embeddings, weight, labels = batch(5, 2000)
    found = step(head_with(weight, LOSSES["q-margin"](), screening=screening), embeddings, labels)
    for ours, theirs in zip(found, plain_step(LOSSES["q-margin"](), embeddings, weight, labels)):
        torch.testing.assert_close(ours, theirs)
    assert len(calls) > 5


def test_one_subcenter_is_a_head_without():
    embeddings, weight, labels = batch(subcenters=1)
    head = head_with_one(weight)
    assert head.weight.shape == (CLASSES, SIZE)
    plain = vm.PrototypeHead(SIZE, CLASSES, LOSSES["q-margin"]()).double()
    plain.load_state_dict(head.state_dict())
    for ours, theirs in zip(step(head, embeddings, labels), step(plain, embeddings, labels)):
        assert torch.equal(ours, theirs)


def head_with_one(weight):
    head = vm.PrototypeHead(SIZE, CLASSES, LOSSES["q-margin"](), subcenters=1).double()
    head.weight.data.copy_(weight[:, 0])
    return head


def test_cosines_are_those_of_the_nearest_subcenter():
    embeddings, weight, labels = batch()
    head = head_with(weight, LOSSES["q-margin"]())
    expected = torch.stack([F.normalize(embeddings) @ F.normalize(weight[:, k]).T for k in range(K)]).amax(0)
    torch.testing.assert_close(head.cosine(embeddings).detach(), expected)
    torch.testing.assert_close(head.loss(head.cosine(embeddings), labels), head(embeddings, labels))


@pytest.mark.parametrize("name", ["q-margin", "arcface"])
def test_a_sampled_step_takes_whole_classes(name):
    embeddings, weight, labels = batch()
    head = head_with(weight, LOSSES[name](), sample_rate=0.2)
    head(embeddings, labels).backward()
    touched = head.weight.grad.flatten(1).any(1)
    assert touched[labels].all()
    assert int(touched.sum()) <= 60


def _split(rank, name, classes):
    embeddings, weight, labels = batch(6, classes)
    head = vm.PrototypeHead(SIZE, classes, LOSSES[name](), process_group=dist.group.WORLD, subcenters=K).double()
    shard = head.shard
    head.load_state_dict(vm.split_state_dict(head, {**head.state_dict(), "weight": weight}))
    own = slice(rank * 3, rank * 3 + 3)
    loss, grad, grad_weight = step(head, embeddings[own], labels[own])
    gathered = vm.gather_state_dict(head)
    return loss, grad, grad_weight, shard.start, gathered.get("weight")


@pytest.mark.parametrize(("name", "classes"), [("q-margin", CLASSES), ("arcface", 5)])
def test_classes_split_over_ranks(name, classes):
    embeddings, weight, labels = batch(6, classes)
    loss, grad, grad_weight = plain_step(LOSSES[name](), embeddings, weight, labels)
    results = on_ranks(2, _split, name, classes)
    for rank, (found, found_grad, *_) in enumerate(results):
        torch.testing.assert_close(found, loss)
        torch.testing.assert_close(found_grad, 2 * grad[rank * 3 : rank * 3 + 3])
    torch.testing.assert_close(torch.cat([result[2] for result in results]), grad_weight)
    assert torch.equal(results[0][4], weight)


def test_state_and_files():
    embeddings, weight, labels = batch(dtype=torch.float32)
    head, file = head_with(weight, LOSSES["q-margin"]()), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    fresh = vm.PrototypeHead(SIZE, CLASSES, LOSSES["q-margin"](), subcenters=K)
    fresh.load_state_dict(torch.load(file))
    for ours, theirs in zip(step(fresh, embeddings, labels), step(head, embeddings, labels)):
        assert torch.equal(ours, theirs)
    assert "subcenters=3" in repr(head)


@pytest.mark.parametrize("wrong", [0, 1.5, None])
def test_a_wrong_number_is_named(wrong):
    with pytest.raises(ValueError, match=f"subcenters is {wrong}: give an integer >= 1"):
        vm.PrototypeHead(4, 5, LOSSES["arcface"](), subcenters=wrong)


def test_training_gives_mislabelled_samples_a_centre_of_their_own():
    """Four fifths of each class are around one direction, and the rest around another; pruning finds them."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (F.normalize(torch.randn(10, 32, generator=generator)) for _ in range(2))
    labels = torch.arange(300) % 10
    mislabelled = torch.arange(300) % 50 >= 40
    center = torch.where(mislabelled[:, None], noise[labels], clean[labels])
    embeddings = center + 0.05 * torch.randn(300, 32, generator=generator)
    torch.manual_seed(1)
    head = vm.PrototypeHead(32, 10, vm.arcface(16.0, 0.2), subcenters=3)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        head(embeddings, labels).backward()
        optimizer.step()
    pruned = prune_subcenters(head.weight.detach(), embeddings, labels, largest_angle=60.0)
    assert pruned.weight.shape == (10, 32)
    assert int((pruned.kept == ~mislabelled).sum()) >= 290
    torch.testing.assert_close(pruned.kept, pruned.angle <= 60.0)


def test_pruned_by_hand():
    weight = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 3.0], [-1.0, 0.0]], [[1.0, 1.0], [1.0, -1.0]]])
    degrees = torch.tensor([10.0, 0.0, 90.0, 179.0, 180.0, 91.0])  # the third class has no samples
    embeddings = 7 * torch.stack([torch.cos(degrees.deg2rad()), torch.sin(degrees.deg2rad())], 1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    pruned = prune_subcenters(weight, embeddings, labels, largest_angle=45.0)
    assert pruned.nearest.tolist() == [0, 0, 1, 1, 1, 0]
    assert pruned.dominant.tolist() == [0, 1, 0]
    assert pruned.weight.tolist() == [[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0]]
    assert pruned.kept.tolist() == [True, True, False, True, True, False]
    torch.testing.assert_close(pruned.angle, torch.tensor([10.0, 0.0, 90.0, 1.0, 0.0, 89.0]), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("weight", "embeddings", "angle", "message"),
    [
        (torch.ones(3, 4), torch.ones(2, 4), 75.0, "give that of a head with sub-centres"),
        (torch.ones(3, 1, 4), torch.ones(2, 4), 75.0, "give that of a head with sub-centres"),
        (torch.ones(3, 2, 4), torch.ones(2, 4).numpy(), 75.0, "embeddings are given as ndarray: give a tensor"),
        (torch.ones(3, 2, 4), torch.ones(2, 5), 75.0, r"shape \(2, 5\): give \(samples, 4\)"),
        (torch.ones(3, 2, 4), torch.ones(2, 4), 0.0, r"largest_angle is 0.0: give degrees in \(0, 180\]"),
        (torch.ones(3, 2, 4), torch.ones(2, 4), math.nan, "largest_angle is nan"),
        (torch.ones(3, 2, 4), torch.eye(2, 4) - torch.eye(1, 4), 75.0, "the embedding of sample 0 has norm 0"),
        (
            torch.ones(3, 2, 4),
            torch.full((2, 4), math.nan),
            75.0,
            r"the embedding of sample 0 \(and 1 more\) has norm nan",
        ),
        (torch.full((3, 2, 4), math.inf), torch.ones(2, 4), 75.0, "the weight holds nan or infinity: training has div"),
    ],
)
def test_what_cannot_be_pruned_is_named(weight, embeddings, angle, message):
    with pytest.raises(ValueError, match=message):
        prune_subcenters(weight, embeddings, torch.tensor([0, 1]), angle)
