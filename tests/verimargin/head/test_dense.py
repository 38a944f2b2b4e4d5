import pytest
import torch
import verimargin as vm
from small_head import batch
from verimargin._sharding import Shard
from verimargin.head.dense import DenseHead
from verimargin.head.gradient_memory import GradientMemory
from verimargin.head.step import BLOCK, Step

LOSSES = {
    "no margin": vm.MarginLoss(vm.NoMargin(), scale=12.0),
    "cosface": vm.cosface(20.0, 0.2),
    "arcface": vm.arcface(20.0, 0.3),
    "q-margin": vm.q_margin(1.0, 20.0, 0.2),
}


def losses_of(loss, unit, weight, label):
    step = Step(label, label, loss, Shard(len(weight), None), GradientMemory())
    return DenseHead.apply(unit, weight, step)[0]


def cross_entropies(loss, unit, weight, label):
    """The same, by autograd through torch's own cross-entropy: log q_y is added to the target's logit and taken off."""
    cosine = unit @ torch.nn.functional.normalize(weight).T
    logit, log_q = loss.margin(cosine.gather(1, label[:, None]).squeeze(1), label, loss.scale)
    logits = (loss.scale * cosine).scatter(1, label[:, None], (logit + log_q)[:, None])
    return torch.nn.functional.cross_entropy(logits, label, reduction="none")


@pytest.mark.parametrize("classes", [2, 301, BLOCK + 7])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_the_cross_entropy(name, classes):
    embeddings, weight, labels = batch(9, classes, 12)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64)
    results = []
    for function in (losses_of, cross_entropies):
        unit = torch.nn.functional.normalize(embeddings).requires_grad_()
        prototypes = weight.clone().requires_grad_()
        loss = function(LOSSES[name], unit, prototypes, labels)
        results.append((loss.detach(), *torch.autograd.grad((loss * weights).sum(), (unit, prototypes))))
    torch.testing.assert_close(*results, atol=1e-8, rtol=1e-8)


def test_samples_whose_loss_does_not_count_have_no_gradient():
    embeddings, weight, labels = batch(4, 301, 12)
    unit = torch.nn.functional.normalize(embeddings).requires_grad_()
    losses_of(LOSSES["cosface"], unit, weight, labels)[2].backward()
    assert unit.grad.any(1).tolist() == [False, False, True, False]


def test_logits_that_overflow_an_exponential_are_harmless():
    embeddings, weight, labels = batch(6, 301, 12, torch.float32)
    unit = torch.nn.functional.normalize(embeddings)
    loss = vm.cosface(5000.0, 0.1)
    found = losses_of(loss, unit, weight, labels)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, cross_entropies(loss, unit, weight, labels), atol=1e-2, rtol=1e-4)
