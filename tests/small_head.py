"""A small classification problem for the head, its losses by name, and what a step of it should give."""

import torch
import verimargin as vm

LOSSES = {
    "q-margin": lambda: vm.q_margin(1.25, 20.0, 0.2),
    "sparsemax arc": lambda: vm.MarginLoss(vm.ArcMargin(0.3), 2.0, scale=8.0),
    "alpha 3": lambda: vm.q_margin(3.0, 4.0, 0.2),
    "arcface": lambda: vm.arcface(20.0, 0.3),
    "cosface": lambda: vm.cosface(20.0, 0.2),
    "adaptive": lambda: vm.MarginLoss(vm.QMargin(0.4, psi=torch.linspace(0, 1, 301)), 1.5, scale=10.0),
}

WITH_QUALITY = {  # their margins follow the norms; h is so large that the samples of `batch` differ much
    "adaface": lambda: vm.MarginLoss(vm.AdaMargin(0.3, h=5.0), scale=20.0),
    "quality q-margin": lambda: vm.q_margin(1.25, 20.0, 0.2, quality=vm.Quality(0.6, h=5.0)),
}


def batch(samples=13, classes=301, size=16, dtype=torch.float64, seed=0):
    """Prototypes of any norm, and embeddings close to their own and to some others."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = normal(classes, size) * (0.01 + normal(classes, 1).abs())
    labels = torch.randint(classes, (samples,), generator=generator)
    embeddings = 5 * (torch.nn.functional.normalize(weight)[labels] + 0.3 * normal(samples, size))
    return embeddings.to(dtype), weight.to(dtype), labels


def head_with(weight, loss, **options):
    head = vm.PrototypeHead(weight.shape[1], weight.shape[0], loss, **options).to(weight.dtype)
    head.weight.data.copy_(weight)
    return head


def step(head, embeddings, labels):
    embeddings = embeddings.clone().requires_grad_()
    head.weight.grad = None
    loss = head(embeddings, labels)
    loss.backward()
    return loss.detach(), embeddings.grad, head.weight.grad


def plain_step(loss, embeddings, weight, labels):
    embeddings, weight = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    normalize = torch.nn.functional.normalize
    value = loss.to(weight.dtype)(normalize(embeddings) @ normalize(weight).T, labels, embeddings.detach().norm(dim=1))
    return value.detach(), *torch.autograd.grad(value, (embeddings, weight))
