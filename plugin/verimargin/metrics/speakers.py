"""Trials by their speakers or other identities, and what remains of a figure without some of them: the jackknife."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import flat
from .curves import DetCurve, sorted_curve

Progress = Callable[[range], Iterable[int]]
CurveMetric = Callable[[DetCurve], tuple[float, float]]
GROUPS = 10  # of speakers; of more and smaller ones, a figure such as the EER jumps between few values
DIVISIONS = 4  # into groups, so that little depends on who is with whom


class TooFewSpeakers(ValueError):
    """There is no interval: without some of the speakers, no target or no non-target trials remain."""


class Trials(NamedTuple):
    """Trials in increasing order of their scores, with speakers numbered from 0."""

    scores: np.ndarray
    same: np.ndarray
    enrol: np.ndarray
    test: np.ndarray
    groups: np.ndarray  # (divisions, speakers): the group of each speaker

    @property
    def speakers(self) -> int:
        return self.groups.shape[1]

    def without_each_group(self, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The scores and labels that remain without each group of each division.

        Raises:
            TooFewSpeakers: without some group there are no target or no non-target trials.
        """
        number = int(self.groups.max()) + 1
        for step in progress(range(len(self.groups) * number)):
            division, group = divmod(step, number)
            left = self.groups[division] == group
            kept = ~(left[self.enrol] | left[self.test])
            same = self.same[kept]
            if same.all() or not same.any():
                raise TooFewSpeakers(
                    f"{self.speakers} speakers are too few for an interval: without {int(left.sum())} of them there "
                    f"are no {'non-target' if len(same) and same[0] else 'target'} trials"
                )
            yield self.scores[kept], same


def grouped(
    scores: ArrayLike,
    same: ArrayLike,
    enrol_speaker: Sequence | np.ndarray,
    test_speaker: Sequence | np.ndarray,
) -> Trials:
    """The trials in order, with their speakers in groups; the errors are those of `confidence_interval`."""
    scores, same = flat(scores), flat(same).astype(bool)
    if not len(scores) == len(same) == len(enrol_speaker) == len(test_speaker):
        raise ValueError(
            f"{len(scores)} scores, {len(same)} labels, {len(enrol_speaker)} and {len(test_speaker)} speakers: "
            "give one of each per trial"
        )
    if (bad := np.isnan(scores)).any():
        raise ValueError(f"score {int(np.argmax(bad))} is nan: look at that trial's embeddings")
    speakers, ids = _numbered(np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)]))
    enrol, test = ids.reshape(2, -1)
    if speakers < 2:
        raise TooFewSpeakers(f"{speakers} speaker: an interval over speakers needs several")
    if (wrong := same != (enrol == test)).any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"trial {i} is labelled {int(same[i])} but compares {enrol_speaker[i]!r} with {test_speaker[i]!r}"
        )
    order = np.argsort(scores, kind="stable")  # once: what is left of sorted scores is sorted
    random, divisions = np.random.default_rng(0), DIVISIONS if speakers > GROUPS else 1
    groups = np.array([random.permutation(speakers) % GROUPS for _ in range(divisions)])
    return Trials(scores[order], same[order], enrol[order], test[order], groups)


def _numbered(names: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of distinct names, and the rank of each among them; small integers are ranked without sorting."""
    if len(names) and names.dtype.kind in "iu" and names.min() >= 0 and names.max() < len(names):
        used = np.zeros(int(names.max()) + 1, dtype=bool)
        used[names] = True
        return int(used.sum()), (np.cumsum(used) - 1)[names]
    distinct, ranks = np.unique(names, return_inverse=True)
    return len(distinct), ranks


def jackknife(
    values: Callable[[np.ndarray, np.ndarray], list[float]], trials: Trials, progress: Progress
) -> tuple[list[float], np.ndarray]:
    """The values for the scores and labels of all trials, and those without each group, (values, divisions, groups)."""
    left_out = np.array([values(scores, same) for scores, same in trials.without_each_group(progress)])
    return values(trials.scores, trials.same), left_out.T.reshape(left_out.shape[1], len(trials.groups), -1)


def values_of(metrics: Mapping[str, CurveMetric]) -> Callable[[np.ndarray, np.ndarray], list[float]]:
    """The values of the metrics as a function of scores, in increasing order, and labels."""

    def values(scores: np.ndarray, same: np.ndarray) -> list[float]:
        curve = sorted_curve(scores, same)
        return [metric(curve)[0] for metric in metrics.values()]

    return values


def jackknife_variance(left_out: np.ndarray) -> tuple[float, float]:
    """The jackknife's variance, averaged over the divisions, and its degrees of freedom.

    These are 2 v^2 / var(v), Satterthwaite's rule, as for one division.

    Args:
        left_out: (divisions, groups), the values without each group.
    """
    groups = left_out.shape[1]
    squares = (left_out - left_out.mean(1, keepdims=True)) ** 2
    total = float(squares.sum(1).mean())
    spread = float((squares**2).sum(1).mean()) - total**2 / groups
    freedom = 2.0 * total**2 / spread if spread > 0 else groups
    return (groups - 1) / groups * total, min(max(freedom, 3.0), groups - 1.0)
