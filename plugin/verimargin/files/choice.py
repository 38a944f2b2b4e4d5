"""The random choice of some samples of each identity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def choose(labels: Sequence | np.ndarray, per_identity: int, seed: int) -> np.ndarray:
    """The sorted positions of `per_identity` random samples of each identity, or of all its samples if it has fewer.

    Args:
        labels: (N,), the identity of each sample.
        per_identity: 0 takes all samples of all identities.
        seed: the same seed chooses the same samples.

    >>> choose(["a", "b", "a", "a"], per_identity=1, seed=0)
    array([1, 2])
    """
    if per_identity < 0:
        raise ValueError(f"{per_identity} samples per identity: give a number >= 1, or 0 for all")
    identity = np.unique(np.asarray(labels), return_inverse=True)[1]
    if not per_identity:
        return np.arange(len(identity))
    order = np.random.default_rng(seed).permutation(len(identity))
    order = order[np.argsort(identity[order], kind="stable")]
    starts = np.flatnonzero(np.diff(identity[order], prepend=-1))
    return np.sort(np.concatenate([order[a:b][:per_identity] for a, b in pairwise([*starts, len(order)])]))
