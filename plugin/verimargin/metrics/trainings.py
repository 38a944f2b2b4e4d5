"""The variance of figures of repeated trainings, over speakers and trainings together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arrays import flat

Variance = Callable[[np.ndarray], tuple[float, float]]  # of effects: the variance and its degrees of freedom


class Trainings(NamedTuple):
    """One figure of the trainings of one system with several seeds."""

    figures: np.ndarray  # (trainings,)
    effects: np.ndarray  # (trainings, ...): what `Variance` takes, for each training
    unseen: np.ndarray | None = None  # (trainings,): a variance of each figure that the effects do not show

    @property
    def mean(self) -> float:
        return float(self.figures.mean())


def rows(scores: ArrayLike) -> list[np.ndarray]:
    """The scores (trials,) or (trainings, trials), one array for each training."""
    shape = np.shape(scores)
    if len(shape) < 2 or not shape[0]:
        return [flat(scores)]
    return [flat(row) for row in scores]  # type: ignore[union-attr]


def variance_of_difference(systems: Sequence[Trainings], variance: Variance) -> tuple[float, float]:
    """The variance of the mean of one system, or of the difference of two, and its degrees of freedom.

    The variance over speakers, of the mean of the trainings, is v_I. Over R trainings it is v_R = s^2 / R, of which a
    part v_IR is in v_I already, as each training finds its own speakers hard. Together they are
    v_I + max(v_R - v_IR, 0), as in a two-way analysis of variance. The degrees of freedom are Satterthwaite's. A single
    training has no v_R; beside several of the other system, its s^2 is taken to be theirs.
    """
    signs = (1.0, -1.0)
    contrast = sum(sign * s.effects.mean(0) for sign, s in zip(signs, systems))
    of_speakers, freedom = variance(contrast)
    if of_speakers > 0:
        of_speakers += sum(float(s.unseen.mean()) / len(s.unseen) for s in systems if s.unseen is not None)
    several = [s for s in systems if len(s.figures) > 1]
    of_trainings, in_both, squares = 0.0, 0.0, 0.0
    for system in systems if several else ():
        known = system if len(system.figures) > 1 else several[0]
        number = len(known.figures)
        share = float(known.figures.var(ddof=1)) / len(system.figures)
        residuals = known.effects - known.effects.mean(0)
        in_both += sum(variance(r)[0] for r in residuals) / (number - 1) / len(system.figures)
        of_trainings, squares = of_trainings + share, squares + share**2 / (number - 1)
    if of_trainings <= in_both:
        return of_speakers, freedom
    added = of_trainings - in_both
    total = of_speakers + added
    return total, total**2 / (of_speakers**2 / freedom + squares * (added / of_trainings) ** 2)
