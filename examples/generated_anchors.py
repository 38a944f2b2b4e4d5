"""Anchors for IDA from generated speech, for when no training identity may be published.

A variational autoencoder learns pieces of the log-mel features of a corpus, and the recipe's own encoder embeds its
samples. The generator is small: in this project's measurements (docs/results.md) its anchors make the scores worse, so
use a better generator. This file shows the steps and is not a part of the package.

    python examples/generated_anchors.py DATA RUN OUT.npz --number 1000

DATA is a folder laid out like VoxCeleb with a `veri_test.txt`, whose speakers are left out; RUN is the folder of a
training by `verimargin demo`, such as demo/qmargin.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from verimargin.files.anchors import anchors_from_generator
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin_speechbrain.corpus import read_trials, recordings, speaker_of, speakers
from verimargin_speechbrain.experiment import SpeakerBrain, read_wav, train


class SampleGenerator(nn.Module):
    """A network from normally distributed latents (B, latent_size) to samples (B, *shape), made by `fit_generator`."""

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
    """The decoder of a variational autoencoder, fitted to samples (N, *shape), such as pieces of log-mel features.

    The encoder and the decoder have one hidden layer each, and each number is standardised over the samples. The
    decoder has one variance for all numbers, which is set to its maximum-likelihood value in each batch. The same seed
    gives the same weights. `on_epoch` is called with the epoch, from 1, and the mean loss in nats per sample.

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
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("the samples hold nan or infinite numbers: leave those samples out")
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
    """The negative evidence lower bound of standardised samples (B, D), in nats per sample."""
    mean, log_variance = encoder(x).chunk(2, dim=1)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    error = (decoder(latents) - x).square().mean().clamp_min(1e-6)
    reconstruction = 0.5 * x.shape[1] * (1.0 + math.log(2.0 * math.pi) + error.log())
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
    return reconstruction + divergence.mean()


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


@torch.no_grad()
def features(brain: SpeakerBrain, data: Path, frames: int = 100) -> Tensor:
    """Consecutive pieces (N, frames, n_mels) of the normalised features of all training speakers.

    Args:
        data: a folder laid out like VoxCeleb with a `veri_test.txt`, whose speakers are left out.
    """
    tested = recordings(read_trials(data / "veri_test.txt"))
    brain.modules.eval()
    pieces: list[Tensor] = []
    for who in speakers(data, map(speaker_of, tested)):
        for path in sorted((data / "wav" / who).glob("*/*.wav")):
            rows = brain.modules.compute_features(read_wav(path)[None])
            rows = brain.modules.mean_var_norm(rows, torch.ones(1))[0]
            pieces += [piece for piece in rows.split(frames) if len(piece) == frames]
    if not pieces:
        raise ValueError(f"no training recording in {data} has {frames} frames: give fewer, or longer recordings")
    return torch.stack(pieces)


def generated_anchors(
    brain: SpeakerBrain, generator: SampleGenerator, number: int, *, truncation: float | None = None, seed: int = 0
) -> Embeddings:
    """Embeddings of generated features, made by the brain's `embedding_model`."""
    brain.modules.eval()
    encoder, size = brain.modules.embedding_model, generator.latent_size
    return anchors_from_generator(generator, encoder, size, number, truncation=truncation, seed=seed)


def train_generator(brain: SpeakerBrain, data: Path, seed: int = 0, **options: Any) -> SampleGenerator:
    """`fit_generator(**options)` on the `features` of the corpus that the brain was trained on."""
    return fit_generator(features(brain, data), seed=seed, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1986)
    options = parser.parse_args()
    recipe = json.loads((options.run.parent / "settings.json").read_text(encoding="utf-8"))["recipe"]
    # The run is finished, so this only loads it.
    brain = train(options.data, options.run, options.run.name, options.seed, **recipe)
    generator = train_generator(brain, options.data, options.seed)
    write_embeddings(options.out, generated_anchors(brain, generator, options.number, seed=options.seed))


if __name__ == "__main__":
    main()
