"""What the scoring commands are given: the embeddings that a list of trials names, and whose they are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..files.anchors import encoder_of, load_anchors
from ..files.embeddings import Embeddings, read_embeddings
from ..files.templates import holds_images, read_templates
from ..files.trials import Trials, identities, read_trials


class Task(NamedTuple):
    embeddings: Embeddings  # those that trials name
    trials: Trials  # as positions among them
    identity: np.ndarray  # a number for each embedding
    encoder: str  # fingerprint of the embeddings' encoder, "" if their file doesn't tell
    title: str

    @property
    def identities(self) -> tuple[np.ndarray, np.ndarray]:
        """Of both sides of each trial."""
        return self.identity[self.trials.enrol], self.identity[self.trials.test]

    def anchors(self, path: Path) -> torch.Tensor:
        """The anchors or the cohort of a file, which must be of the embeddings' size and, where known, encoder."""
        return load_anchors(path, self.embeddings.vectors.shape[1], self.encoder).vectors


def read_task(embeddings: Path, trials: Path) -> Task:
    """The task of two files; errors as `read_embeddings`, `read_templates` and `read_trials` have them."""
    given = read_templates(embeddings, trials) if holds_images(embeddings) else read_embeddings(embeddings)
    listed = read_trials(trials, given.ids)
    used = np.zeros(len(given.ids), dtype=bool)
    used[listed.enrol] = used[listed.test] = True
    place = np.cumsum(used, dtype=np.int32) - 1
    named = Embeddings([name for name, u in zip(given.ids, used) if u], given.vectors[torch.from_numpy(used)])
    listed = listed._replace(enrol=place[listed.enrol], test=place[listed.test])
    targets = int(listed.same.sum())
    title = f"{trials.name}: {targets:,} target and {len(listed.same) - targets:,} non-target trials"
    return Task(named, listed, identities(listed, named.ids), encoder_of(embeddings), title)
