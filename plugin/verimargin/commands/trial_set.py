"""The input of the scoring commands: a list of trials, the embeddings that it names, and their identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from ..files.anchors import read_anchors
from ..files.embeddings import Embeddings, read_embeddings
from ..files.scorers import holds_regressor
from ..files.templates import holds_images, read_templates
from ..files.trials import Trials, identities, read_trials
from ..scoring.methods import BLOCK, Method, score_trials
from . import report
from .progress import Progress


@dataclass(frozen=True, eq=False)
class TrialSet:
    embeddings: Embeddings  # only those that the trials name
    trials: Trials  # as positions among the embeddings
    identity: np.ndarray  # one number per embedding
    title: str

    @property
    def identities(self) -> tuple[np.ndarray, np.ndarray]:
        """The identities of both sides of each trial."""
        return self.identity[self.trials.enrol], self.identity[self.trials.test]

    def read_others(self, path: Path) -> Embeddings:
        """Anchors, a cohort or distractors: embeddings of other identities, of the same size and encoder.

        Raises:
            ValueError: another size or encoder, a regressor, or embeddings of the trials themselves.
        """
        try:
            others = read_anchors(path, self.embeddings.vectors.shape[1], self.embeddings.encoder)
        except ValueError:
            if holds_regressor(path):
                raise ValueError(f"{path} is a regressor of verimargin train-ssr: give it as --regressor") from None
            raise
        self._check_other(path, others)
        return others

    @cached_property
    def _scored(self) -> tuple[set[str], set[bytes]]:
        """The names and the vectors of the embeddings; numbers are no names, as they are not the same everywhere."""
        names = {name for name in self.embeddings.ids if not name.isdecimal()}
        return names, {row.tobytes() for row in self.embeddings.vectors.numpy()}

    def _check_other(self, path: Path, others: Embeddings) -> None:
        """An embedding that is itself scored would find itself as its nearest neighbour, and look like no impostor."""
        names, rows = self._scored
        shared = [
            name for name, row in zip(others.ids, others.vectors.numpy()) if name in names or row.tobytes() in rows
        ]
        if shared:
            raise ValueError(
                f"{path} and the trials share embeddings ({len(shared)}, such as {shared[0]}): give embeddings of "
                f"identities that no trial is about, and leave these out of {path}"
            )

    def scores(
        self, methods: Sequence[Method], device: str, progress: Progress, max_bytes: int = BLOCK
    ) -> dict[str, np.ndarray]:
        """The scores of the trials by method name, computed in blocks that take `max_bytes`."""
        i, j = torch.from_numpy(self.trials.enrol), torch.from_numpy(self.trials.test)
        scores = score_trials(methods, self.embeddings.vectors.to(device), i, j, progress, max_bytes)
        return {name: values.numpy() for name, values in scores.items()}

    def evaluate(
        self, title: str, scores: np.ndarray, intervals: bool, progress: Progress, far: float | None = None
    ) -> report.Result:
        shown = partial(progress, title=f"Intervals, {title}")
        return report.evaluate(scores, self.trials.same, self.identities, intervals, far, shown)

    def compared_with_itself(self) -> str:
        """A warning of trials of one sample; "" if there are none."""
        itself = np.flatnonzero(self.trials.enrol == self.trials.test)
        if not len(itself):
            return ""
        name = self.embeddings.ids[self.trials.enrol[itself[0]]]
        return f"Trials ({len(itself)}, such as that of {name}) compare a sample with itself: leave them out."

    def note(self, intervals: bool) -> str:
        return report.note(len(np.unique(self.identity)), intervals)


def read_trial_set(embeddings: Path, trials: Path) -> TrialSet:
    """The trial set from two files; raises the errors of `read_embeddings`, `read_templates` and `read_trials`."""
    given = read_templates(embeddings, trials) if holds_images(embeddings) else read_embeddings(embeddings)
    listed = read_trials(trials, given.ids)
    used = np.zeros(len(given.ids), dtype=bool)
    used[listed.enrol] = used[listed.test] = True
    place = np.cumsum(used, dtype=np.int32) - 1
    ids = [name for name, u in zip(given.ids, used) if u]
    vectors, sizes = given.vectors[torch.from_numpy(used)], None if given.sizes is None else given.sizes[used]
    named = replace(given, ids=ids, vectors=vectors, labels=[], sizes=sizes)
    listed = listed._replace(enrol=place[listed.enrol], test=place[listed.test])
    targets = int(listed.same.sum())
    title = f"{trials.name}: {targets:,} target and {len(listed.same) - targets:,} non-target trials"
    return TrialSet(named, listed, identities(listed, ids), title)
