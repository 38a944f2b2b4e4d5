"""Simulated identities and their samples, for `low_far.py`: as many as are wanted, drawn when they are needed.

A sample is a fixed random network of the identity's factors and of nuisance factors, plus noise::

    z = sqrt(a) family + sqrt(1 - a) own        # identity: twenty look-alikes share a family
    n = channel + habit / 2 + own               # nuisance: all identities share 64 channels; a habit is an identity's
    x = tanh(tanh([z, n] A + c) B + d) + noise u^(-1/3) eps

The share a is uniform in [0, 0.7] and differs from identity to identity. u is uniform in (0, 1) and differs from sample
to sample: one in 8 has more than twice the least noise, one in 64 more than four times. Every number that is drawn
is a hash of the identity, the number of the sample and what it is for. So it does not matter when and in which order
samples are drawn, and nothing is stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IDENTITY_FACTORS, NUISANCE_FACTORS = 40, 8
HIDDEN, INPUTS = 256, 128
FAMILY = 20  # identities that look alike
CHANNELS = 64
CLOSENESS = 0.7  # of the identity factors' variance is the family's, at most
NOISE = 0.25
MISLABELLED = 0.02  # of the training samples show another identity than their label says
FEWEST, MOST = 2, 200  # samples of a class, nine on average
TAIL = 1.1  # the exponent of their Pareto distribution
DEVELOPMENT, TEST = 2**40, 2**41  # the first identity of each set; training identities are numbered from 0

# What a hash is for.
FAMILY_FACTORS, OWN_FACTORS, SHARE, HABIT, CHANNEL, CHANNEL_FACTORS = range(6)
NUISANCE, QUALITY, SAMPLE_NOISE, SIZE, WRONG = range(6, 11)


class TrainingSet(NamedTuple):
    """The samples of all classes, one after the other: sample i is number `number[i]` of class `label[i]`."""

    classes: int
    label: np.ndarray
    number: np.ndarray

    def inputs(self, index: np.ndarray) -> Tensor:
        """What these samples look like, (B, INPUTS); a few are of another identity than their label says."""
        label, number = self.label[index], self.number[index]
        wrong, other = uniform(WRONG, label, number, 2).T
        shown = np.where(wrong < MISLABELLED, (other * self.classes).astype(np.int64) % self.classes, label)
        return inputs(shown, number)


def training_set(classes: int) -> TrainingSet:
    """Class c has the same samples whatever the number of classes, except for those that are mislabelled."""
    size = class_sizes(np.arange(classes))
    label = np.repeat(np.arange(classes), size)
    return TrainingSet(classes, label, np.arange(len(label)) - np.repeat(np.cumsum(size) - size, size))


def class_sizes(identity: np.ndarray) -> np.ndarray:
    size = FEWEST * uniform(SIZE, identity, np.zeros_like(identity), 1)[:, 0].astype(np.float64) ** (-1.0 / TAIL)
    return np.minimum(size, MOST).astype(np.int64)


def inputs(identity: np.ndarray, number: np.ndarray) -> Tensor:
    """The samples of these numbers of these identities, (B, INPUTS)."""
    z, n = identity_factors(identity), nuisance_factors(identity, number)
    a, shift, b, bias = MIXING
    clean = np.tanh(np.tanh(np.concatenate([z, n], axis=1) @ a + shift) @ b + bias)
    spread = NOISE * uniform(QUALITY, identity, number, 1) ** np.float32(-1.0 / 3.0)
    return torch.from_numpy(clean + spread * normal(SAMPLE_NOISE, identity, number, INPUTS))


def identity_factors(identity: np.ndarray) -> np.ndarray:
    family, none = identity // FAMILY, np.zeros_like(identity)
    share = np.float32(CLOSENESS) * uniform(SHARE, identity, none, 1)
    common = normal(FAMILY_FACTORS, family, none, IDENTITY_FACTORS)
    return np.sqrt(share) * common + np.sqrt(1 - share) * normal(OWN_FACTORS, identity, none, IDENTITY_FACTORS)


def nuisance_factors(identity: np.ndarray, number: np.ndarray) -> np.ndarray:
    none = np.zeros_like(identity)
    channel = (uniform(CHANNEL, identity, number, 1)[:, 0] * CHANNELS).astype(np.int64) % CHANNELS
    return (
        normal(CHANNEL_FACTORS, channel, none, NUISANCE_FACTORS)
        + np.float32(0.5) * normal(HABIT, identity, none, NUISANCE_FACTORS)
        + normal(NUISANCE, identity, number, NUISANCE_FACTORS)
    )


def normal(purpose: int, identity: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """(B, count) normal numbers, by Box and Muller's transform; `count` is even."""
    u, v = np.split(uniform(purpose, identity, number, count), 2, axis=1)
    radius, angle = np.sqrt(-2.0 * np.log(u)), np.float32(2.0 * np.pi) * v
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def uniform(purpose: int, identity: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """(B, count) numbers in (0, 1], in float32."""
    key = mixed(mixed(identity.astype(np.uint64) * np.uint64(256) + number.astype(np.uint64)) + np.uint64(purpose))
    bits = mixed(key[:, None] + np.arange((count + 1) // 2, dtype=np.uint64))
    halves = np.concatenate([bits >> np.uint64(40), bits & np.uint64(2**24 - 1)], axis=1)[:, :count]
    return (halves.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)


def mixed(x: np.ndarray) -> np.ndarray:
    """The output function of the SplitMix64 generator: equal bits for equal numbers, unrelated ones for others.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mixing() -> tuple[np.ndarray, ...]:
    random, factors = np.random.default_rng(0), IDENTITY_FACTORS + NUISANCE_FACTORS
    shapes = (
        ((factors, HIDDEN), 1.2 / factors**0.5),
        ((HIDDEN,), 0.3),
        ((HIDDEN, INPUTS), 2.0 / HIDDEN**0.5),
        ((INPUTS,), 0.3),
    )
    return tuple((scale * random.standard_normal(shape)).astype(np.float32) for shape, scale in shapes)


MIXING = _mixing()
