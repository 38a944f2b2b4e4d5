"""Scores of a few speakers, whose recordings are their mean and noise."""

import numpy as np


def trials(speakers=12, utterances=4, noise=1.0, seed=0):
    random = np.random.default_rng(seed)
    voice = random.normal(size=(speakers, 1, 6)) + noise * random.normal(size=(speakers, utterances, 6))
    voice = (voice / np.linalg.norm(voice, axis=2, keepdims=True)).reshape(-1, 6)
    who = np.repeat(np.arange(speakers), utterances)
    i, j = np.triu_indices(len(voice), 1)
    return (voice[i] * voice[j]).sum(1), who[i] == who[j], who[i], who[j]
