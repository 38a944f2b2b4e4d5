"""Calibration: scores turned into natural log-likelihood ratios, by logistic regression (mathematics, section 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .._checks import check_share
from .pairs import slices

BLOCK = 2**18  # trials whose measures are in float64 at once
STEPS = 100  # of Newton's method; a handful is usual
HALVINGS = 30  # of a step that would raise the objective

TURNED_ROUND = (
    "in these trials a higher score does not make a target more likely (its weight is {:.3g}): the embeddings do not "
    "tell identities apart, the scores are distances, or the labels are turned round"
)

Qualities = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Calibration:
    """A log-likelihood ratio that is linear in the score and in quality measures of both sides of a trial.

    Equivalent to::

        offset + scale * score + sum(low * minimum(e, t) + high * maximum(e, t))     over the quality measures

    with a measure's values e and t on the two sides, so that it does not matter which side is which.

    Attributes:
        offset, scale: of the score.
        qualities: the weights (low, high) of each quality measure by its name.
    """

    offset: float
    scale: float
    qualities: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, scores: np.ndarray, qualities: Qualities | None = None) -> np.ndarray:
        """Natural log-likelihood ratios (P,) in float64, from scores (P,).

        Args:
            qualities: the values of both sides, (P,) each, for every quality measure that the calibration has.
        """
        qualities = qualities or {}
        if missing := [name for name in self.qualities if name not in qualities]:
            raise ValueError(f"the calibration takes the quality {missing[0]!r} of each side: give it as well")
        llr = self.scale * np.asarray(scores, dtype=float) + self.offset
        _check_shapes(llr.shape, {name: qualities[name] for name in self.qualities})
        for name, (low, high) in self.qualities.items():
            enrol, test = qualities[name]
            llr += low * np.minimum(enrol, test) + high * np.maximum(enrol, test)
        return llr


def fit_calibration(
    scores: np.ndarray, same: np.ndarray, qualities: Qualities | None = None, prior: float = 0.5
) -> Calibration:
    """The calibration that is best for these trials: prior-weighted logistic regression.

    With l the log-likelihood ratios of a `Calibration`, it minimises ::

        prior * mean(log(1 + exp(-l - logit))) over the targets
        + (1 - prior) * mean(log(1 + exp(l + logit))) over the non-targets,       logit = log(prior / (1 - prior))

    which is Cllr times log 2 for a prior of 1/2. The problem is convex; Newton's method solves it in float64.

    Args:
        scores, same: (P,) of each trial: its score, and whether it is a target trial.
        qualities: (e, t) for each quality measure, (P,) each: its values on both sides. Take logarithms of durations
            and of template sizes.
        prior: the prior of a target trial for which the calibration is to be best.

    Raises:
        ValueError: the arrays have different lengths, a value is nan or infinite, all scores or all values of a quality
            are the same, the scores (with the qualities) separate targets from non-targets without an error, in which
            case nothing says how steep the calibration is, or a higher score does not make a target more likely.

    Source: Bruemmer and Doddington, "Likelihood-ratio calibration using prior-weighted proper scoring rules",
    Interspeech 2013; quality measures: Thienpondt et al., arXiv 2010.11255.

    >>> fit_calibration(np.array([0.9, 0.5, 0.4, 0.8, 0.3, 0.1]), np.array([1, 1, 1, 0, 0, 0], dtype=bool)).scale > 0
    True
    """
    qualities = qualities or {}
    scores, same = np.asarray(scores), np.asarray(same, dtype=bool)
    check_share("prior", prior, "(0, 1)")
    if scores.ndim != 1 or scores.shape != same.shape:
        raise ValueError(
            f"scores and same have shapes {scores.shape} and {same.shape}: give one of each per trial, (P,)"
        )
    _check_shapes(same.shape, qualities)
    if same.all() or not same.any():
        raise ValueError(f"the {len(same)} trials are of one kind: a calibration needs targets and non-targets")
    problem = _Problem(scores, same, qualities, prior)
    weight = problem.solve()
    weight[1:] /= problem.spread
    weight[0] -= weight[1:] @ problem.centre
    if weight[1] <= 0:
        raise ValueError(TURNED_ROUND.format(weight[1]))
    pairs = weight[2:].reshape(-1, 2).tolist()
    weights = {name: (low, high) for name, (low, high) in zip(qualities, pairs)}
    return Calibration(float(weight[0]), float(weight[1]), weights)


def _check_shapes(shape: tuple[int, ...], qualities: Qualities) -> None:
    for name, sides in qualities.items():
        if any(np.shape(side) != shape for side in sides):
            raise ValueError(
                f"the quality {name!r} has values of shapes {[np.shape(side) for side in sides]}, and the scores have "
                f"the shape {shape}: give one value per trial for each of the two sides"
            )


class _Problem:
    """The objective with its derivatives, of weights for a constant and for measures that are standardised."""

    def __init__(self, scores: np.ndarray, same: np.ndarray, qualities: Qualities, prior: float):
        self.scores, self.same, self.qualities = scores, same, qualities
        self.logit = math.log(prior / (1.0 - prior))
        targets = int(same.sum())
        self.importance = prior / targets, (1.0 - prior) / (len(same) - targets)  # of a target, of a non-target
        self.centre, self.spread = self._standard()

    def solve(self) -> np.ndarray:
        """The minimum, by Newton's method with steps that are halved until they descend."""
        weight = np.zeros(1 + len(self.centre))
        value, gradient, hessian = self._derivatives(weight, first=True)
        for _ in range(STEPS):
            step = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]  # equal measures share their weight
            decrement = float(gradient @ step)
            for _ in range(HALVINGS):
                lower, *derivatives = self._derivatives(weight - step)
                if lower <= value + 1e-15:
                    break
                step /= 2
            weight, value, (gradient, hessian) = weight - step, lower, derivatives
            if decrement < 1e-14:
                return weight
        raise ValueError(
            "the logistic regression does not come to an end: the scores with their qualities separate almost all "
            "targets from the non-targets; fit it on more trials, or with fewer qualities"
        )

    def _derivatives(self, weight: np.ndarray, first: bool = False) -> tuple[float, np.ndarray, np.ndarray]:
        """The objective, its gradient and its Hessian."""
        value, gradient, hessian = 0.0, np.zeros_like(weight), np.zeros((len(weight), len(weight)))
        lowest_target, highest_other = math.inf, -math.inf
        for part in slices(0, len(self.same), BLOCK):
            same = self.same[part]
            measures = (self._measures(part) - self.centre) / self.spread
            row = np.concatenate([np.ones((len(same), 1)), measures], 1)
            llr = row @ weight
            lowest_target = min(lowest_target, llr.min(where=same, initial=math.inf))
            highest_other = max(highest_other, llr.max(where=~same, initial=-math.inf))
            odds = llr + self.logit
            importance = np.where(same, *self.importance)
            value += float(importance @ np.logaddexp(0.0, np.where(same, -odds, odds)))
            posterior = np.exp(-np.logaddexp(0.0, -odds))
            gradient += row.T @ (importance * (posterior - same))
            hessian += (row * (importance * posterior * (1.0 - posterior))[:, None]).T @ row
        if not first and lowest_target >= highest_other:
            if weight[1] < 0:
                raise ValueError(TURNED_ROUND.format(weight[1]))
            raise ValueError(
                f"the scores{' with their qualities' if self.qualities else ''} separate the targets of this list from "
                "its non-targets without an error, so nothing says how steep a calibration is: fit it on a list with "
                "more or harder trials"
            )
        return value, gradient, hessian

    def _standard(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of each measure."""
        count, parts = len(self.same), slices(0, len(self.same), BLOCK)
        centre = sum(self._measures(part).sum(0) for part in parts) / count
        for n, name in enumerate(["score", *(f"quality {name!r}" for name in self.qualities for _ in range(2))]):
            if not np.isfinite(centre[n]):
                raise ValueError(f"a {name} is nan or infinite: look at the embeddings of that trial")
        spread = np.sqrt(sum(((self._measures(part) - centre) ** 2).sum(0) for part in parts) / count)
        known = spread > 1e-12 * np.abs(centre)
        if not known[0]:
            raise ValueError("all scores are the same: there is nothing to calibrate")
        for n, name in enumerate(self.qualities):
            if not known[1 + 2 * n : 3 + 2 * n].any():
                raise ValueError(f"the quality {name!r} is the same for all trials of the list: leave it out")
        return centre, np.where(known, spread, 1.0)

    def _measures(self, part: slice) -> np.ndarray:
        return np.stack([column.astype(float) for column in self._columns(part)], 1)

    def _columns(self, part: slice) -> Iterator[np.ndarray]:
        yield self.scores[part]
        for enrol, test in self.qualities.values():
            yield np.minimum(enrol[part], test[part])
            yield np.maximum(enrol[part], test[part])
