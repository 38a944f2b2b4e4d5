"""Anchors of generated speech: a generator of log-mel features, trained on a corpus, through the recipe's encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from verimargin.files.anchors import Anchors, anchors_from_generator
from verimargin.generator import SampleGenerator, fit_generator

from .corpus import read_trials, recordings, speaker_of, speakers
from .experiment import SpeakerBrain, read_wav


@torch.no_grad()
def features(brain: SpeakerBrain, data: Path, frames: int = 100) -> Tensor:
    """Pieces (N, frames, n_mels) of the training speakers' normalised features, cut one after the other.

    Args:
        data: a folder laid out as VoxCeleb with `veri_test.txt`, whose speakers are left out.
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
) -> Anchors:
    """Embeddings, by the brain's `embedding_model`, of features that the generator makes."""
    brain.modules.eval()
    encoder, size = brain.modules.embedding_model, generator.latent_size
    return anchors_from_generator(generator, encoder, size, number, truncation=truncation, seed=seed)


def train_generator(brain: SpeakerBrain, data: Path, seed: int = 0, **options) -> SampleGenerator:
    """`fit_generator(**options)` on the `features` of the corpus that the brain was trained on."""
    return fit_generator(features(brain, data), seed=seed, **options)
