"""A small generator of samples, for anchors where there is none at hand: a variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._checks import check_finite


class SampleGenerator(nn.Module):
    """Latents (B, latent_size), normal, to samples (B, *shape); what `fit_generator` gives."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, latent_size: int, hidden: int):
        super().__init__()
        self.shape, self.latent_size = tuple(mean.shape), latent_size
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.network = _network(latent_size, hidden, mean.numel())

    def forward(self, latents: Tensor) -> Tensor:
        return self.mean + self.std * self.network(latents).view(-1, *self.shape)


def fit_generator(
    samples: Tensor,
    latent_size: int = 32,
    hidden: int = 256,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> SampleGenerator:
    """The decoder of a variational autoencoder of samples (N, *shape), such as pieces of log-mel features.

    Encoder and decoder have one hidden layer; each number is standardised over the samples. The decoder's
    variance, one for all numbers, is at its maximum-likelihood value in each batch. The same seed gives the
    same weights. `on_epoch` is called with the epoch, from 1, and the mean loss in nats a sample.

    Source: Kingma and Welling, arXiv 1312.6114; the variance: Rybkin et al., arXiv 2006.13202, section 4.

    >>> fit_generator(torch.randn(20, 5, 2), latent_size=3, hidden=8, epochs=1)(torch.randn(4, 3)).shape
    torch.Size([4, 5, 2])
    """
    if samples.dim() < 2 or len(samples) < 2 or not samples.is_floating_point():
        raise ValueError(f"samples are {samples.dtype} of shape {tuple(samples.shape)}: give floating-point (N, ...)")
    if min(latent_size, hidden, epochs, batch_size) < 1:
        raise ValueError(
            f"latent_size is {latent_size}, hidden {hidden}, epochs {epochs}, batch_size {batch_size}: give integers "
            ">= 1"
        )
    check_finite("numbers", samples)
    samples = samples.detach().float()
    mean, std = samples.mean(0), samples.std(0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    standard = ((samples - mean) / std).flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = SampleGenerator(mean, std, latent_size, hidden)
        encoder = _network(standard.shape[1], hidden, 2 * latent_size)
        optimizer = torch.optim.Adam([*generator.parameters(), *encoder.parameters()], learning_rate)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in standard[torch.randperm(len(standard))].split(batch_size):
                optimizer.zero_grad()
                loss = _loss(encoder, generator.network, batch)
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(batch)
            if on_epoch is not None:
                on_epoch(epoch, total / len(standard))
    return generator.eval()


def _loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """The negative evidence lower bound of standardised samples (B, D), in nats a sample."""
    mean, log_variance = encoder(x).chunk(2, dim=1)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    error = (decoder(latents) - x).square().mean().clamp_min(1e-6)
    reconstruction = 0.5 * x.shape[1] * (1.0 + math.log(2.0 * math.pi) + error.log())
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
    return reconstruction + divergence.mean()


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
