import pytest
import reference
import torch
import verimargin as vm
from small_head import batch, head_with, plain_step, step
from torch.utils._python_dispatch import TorchDispatchMode
from verimargin._sharding import Shard
from verimargin.head.gradient_memory import GradientMemory
from verimargin.head.sparse import SparseHead
from verimargin.head.step import Step


def test_no_tensor_of_batch_by_classes_for_alpha_above_one():
    embeddings, weight, labels = batch(128, 40_000, 8, torch.float32)
    largest = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.append(max((t.numel() for t in _tensors(result)), default=0))
            return result

    def _tensors(result):
        return [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, torch.Tensor)]

    head = head_with(weight, vm.q_margin(1.25, 32.0, 0.2))
    with Largest():
        head(embeddings.requires_grad_(), labels).backward()
    assert max(largest) < 128 * 40_000 / 8
    assert head.active_classes < 4_000
    expected = vm.q_margin(1.25, 32.0, 0.2)(head.cosine(embeddings), labels)
    torch.testing.assert_close(head(embeddings, labels), expected)


def test_sums_over_nearly_all_classes_keep_their_digits():
    """A plain float32 sum over the active classes was off by 1e-3 of the gradient here."""
    classes, size = 200_000, 6
    row = torch.linspace(-1.0, 2.0, size)
    head = head_with(row.expand(classes, size), vm.q_margin(1.1, 10.0, 0.2))
    embeddings = torch.randn(2, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = head(embeddings, torch.tensor([3, classes - 1]))
    loss.backward()
    assert head.active_classes == classes
    cosines = head.cosine(embeddings)[:, 0].tolist()
    expected = [reference.loss(torch.full((classes,), 10.0 * c), 3, 1.1, -2.0) for c in cosines]
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    # all prototypes have one direction, so a step in it changes nothing
    assert float(embeddings.grad.abs().max()) < 3e-5


def test_statistics_of_the_step():
    weight = torch.eye(4)
    head = head_with(weight, vm.q_margin(2.0, 5.0, 0.0))
    head(torch.tensor([[1.0, 0, 0, 0], [1.0, 1.0, 0, 0]]), torch.tensor([0, 1]))
    assert head.active_classes == 1.5  # one, and two
    assert head.zero_loss == 0.5


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0, 3.0])
def test_each_samples_loss_and_both_gradients_by_the_reference(alpha):
    """p - e_y of the reference's softargmax, taken by hand through the prototypes' normalisation."""
    embeddings, weight, labels = batch(7, 301, 9)
    unit = torch.nn.functional.normalize(embeddings).requires_grad_()
    weight.requires_grad_()
    loss = vm.q_margin(alpha, 6.0, 0.2)
    step = Step(labels, labels, loss, Shard(301, None), GradientMemory())
    values, statistics = SparseHead.apply(unit, weight, step)
    weighted = torch.arange(1.0, 8.0, dtype=torch.float64)
    (values * weighted).sum().backward()
    norm = weight.detach().norm(dim=1)
    theta = 6.0 * unit.detach() @ (weight.detach() / norm[:, None]).T
    residual, active = [], []
    for row, y, value in zip(theta.numpy(), labels.tolist(), values.tolist()):
        assert value == pytest.approx(reference.loss(row, y, alpha, -6.0 * 0.2), abs=1e-9)
        log_q = torch.zeros(301, dtype=torch.float64)
        log_q[y] = -6.0 * 0.2
        p = torch.from_numpy(reference.softargmax(row, alpha, log_q.numpy())[0])
        active.append(int((p > 0).sum()))
        residual.append(p - torch.eye(301, dtype=torch.float64)[y])
    slope = 6.0 * torch.stack(residual) * weighted[:, None]
    normalised = weight.detach() / norm[:, None]
    torch.testing.assert_close(unit.grad, slope @ normalised, atol=1e-8, rtol=0)
    grad = slope.T @ unit.detach()
    grad = (grad - (grad * normalised).sum(1, keepdim=True) * normalised) / norm[:, None]
    torch.testing.assert_close(weight.grad, grad, atol=1e-7, rtol=1e-7)
    assert statistics[0] == pytest.approx(sum(active) / 7)


def test_a_class_without_a_probability_has_no_gradient():
    embeddings, weight, labels = batch(5, 301, 16)
    head = head_with(weight, vm.q_margin(2.0, 8.0, 0.2))
    head(embeddings, labels).backward()
    theta = 8.0 * head.cosine(embeddings).detach()
    log_q = torch.zeros_like(theta).scatter(1, labels[:, None], -1.6)
    p, _ = vm.alpha_softargmax(theta, 2.0, log_q)
    touched = (p > 0).any(0)
    touched[labels] = True
    assert 5 < int(touched.sum()) < 301
    assert not head.weight.grad[~touched].any()
    assert head.weight.grad[touched].any(1).all()


def test_gradients_of_more_classes_than_a_block_holds():
    """Nearly all of 2,500 classes are active, in three blocks."""
    embeddings, weight, labels = batch(5, 2500, 6)
    loss = vm.q_margin(1.1, 4.0, 0.2)
    head = head_with(weight, loss)
    for found, expected in zip(step(head, embeddings, labels), plain_step(loss, embeddings, weight, labels)):
        torch.testing.assert_close(found, expected)
    assert head.active_classes > 2000


def test_autocast_changes_nothing():
    embeddings, weight, labels = batch(5, 300, 16, torch.float32)
    head = head_with(weight, vm.q_margin(1.25, 20.0, 0.2))
    expected = step(head, embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(head, embeddings, labels)
    for a, b in zip(found, expected):
        assert torch.equal(a, b)


@pytest.mark.parametrize("spread", [0.0, 1e-6])
@pytest.mark.parametrize("alpha", [3.0, 5.0, 8.0])
def test_prototypes_that_are_equal_or_nearly_so(alpha, spread):
    """A bound of tau that was rounded up left no class active, and the gradients were nan while the loss was not."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 32, generator=generator)
    weight = row + spread * torch.randn(70, 32, generator=generator)
    embeddings = row + 0.3 * torch.randn(4, 32, generator=generator)
    loss, labels = vm.q_margin(alpha, 4.0, 0.2), torch.arange(4)
    found = step(head_with(weight, loss), embeddings, labels)
    exact = plain_step(loss, embeddings.double(), weight.double(), labels)
    assert all(bool(torch.isfinite(value).all()) for value in found)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-6, atol=0)
    if spread == 0.0 and alpha == 3.0:  # otherwise p follows the rounding of the float32 logits
        torch.testing.assert_close(found[2].double(), exact[2], rtol=0, atol=1e-6)
