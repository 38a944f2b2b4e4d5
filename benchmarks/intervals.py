"""How often 95 % intervals hold the true value, by `verimargin.metrics` and by other methods, on simulated speakers.

python benchmarks/intervals.py --speakers 10 40 150 --samples 400

The embeddings are a speaker's mean and noise in 16 dimensions, 3 to 9 for each speaker. `even` has one noise for all
speakers; in `uneven` it differs from speaker to speaker, and the speakers form two clusters; `rare` makes few errors.
The true values come from 100,000 speakers. An interval that lies below the true value is counted in brackets: there the
system would look better than it is (TAR: its share of errors).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from verimargin import metrics
from verimargin.metrics import DetCurve, Interval, student
from verimargin.metrics import speakers as by_speaker

DIMENSIONS = 16
METRICS: dict[str, metrics.CurveMetric] = {
    "EER": DetCurve.eer,
    "minDCF 0.01": DetCurve.min_dcf,
    "minDCF 0.05": partial(DetCurve.min_dcf, p_target=0.05),
    "TAR at 1e-2": partial(DetCurve.tar_at_far, far=1e-2),
    "TAR at 1e-3": partial(DetCurve.tar_at_far, far=1e-3),
}
RESAMPLES = 200
NON_TARGETS = 300_000


class Trials(NamedTuple):
    """Pairs i, j of unit embeddings x, and their speakers."""

    x: np.ndarray
    i: np.ndarray
    j: np.ndarray
    enrol: np.ndarray
    test: np.ndarray

    @property
    def same(self) -> np.ndarray:
        return self.enrol == self.test

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The cosines of the pairs, with these embeddings in the place of x."""
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return (x[self.i] * x[self.j]).sum(1)

    def judged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scores, labels and speakers, as the functions of `metrics` take them."""
        return self.scores(self.x), self.same, self.enrol, self.test


def embeddings(kind: str, speakers: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The speaker and the unit embedding of each recording."""
    mean = random.standard_normal((speakers, DIMENSIONS))
    noise = np.full(speakers, {"even": 0.55, "rare": 0.4, "uneven": 0.5}[kind])
    if kind == "uneven":
        mean[:, 0] += random.choice([-1.0, 1.0], speakers)
        noise = noise * np.exp(0.35 * random.standard_normal(speakers))
    speaker = np.repeat(np.arange(speakers), random.integers(3, 10, speakers))
    x = mean[speaker] + noise[speaker, None] * random.standard_normal((len(speaker), DIMENSIONS))
    return speaker, x / np.linalg.norm(x, axis=1, keepdims=True)


def trials_of(speaker: np.ndarray, x: np.ndarray, random: np.random.Generator) -> Trials:
    """All target trials, and all non-target trials or NON_TARGETS drawn ones."""
    i, j = np.triu_indices(len(x), 1)
    same = speaker[i] == speaker[j]
    kept = np.flatnonzero(same | (random.random(len(same)) < NON_TARGETS / len(same)))
    i, j = i[kept], j[kept]
    return Trials(x, i, j, speaker[i], speaker[j])


def true_curve(kind: str, random: np.random.Generator) -> DetCurve:
    """All target trials of 100,000 speakers, and as many non-target trials."""
    positive, negative = [], []
    for _ in range(20):
        speaker, x = embeddings(kind, 5_000, random)
        for step in range(1, 9):  # the recordings of a speaker follow each other
            same = speaker[step:] == speaker[:-step]
            positive.append((x[step:] * x[:-step]).sum(1)[same])
        for _ in range(5):
            other = random.permutation(len(x))
            negative.append((x * x[other]).sum(1)[speaker != speaker[other]])
    return metrics.det_curve(np.concatenate(positive), np.concatenate(negative))


def resampled(trials: Trials, draw: Callable[[int], np.ndarray]) -> dict[str, np.ndarray]:
    """The values of the metrics for drawn weights of the speakers; a trial's weight is the product of its two."""
    scores, same, enrol, test = trials.judged()
    values = []
    for _ in range(RESAMPLES):
        count = draw(int(enrol.max()) + 1)
        weight = np.where(same, count[enrol], count[enrol] * count[test])
        if weight[same].any() and weight[~same].any():
            curve = metrics.det_curve(scores[same], scores[~same], weight[same], weight[~same])
            values.append([metric(curve)[0] for metric in METRICS.values()])
    return dict(zip(METRICS, np.array(values).T))


def percentiles(trials: Trials, draw: Callable[[int], np.ndarray]) -> dict[str, Interval]:
    return {name: Interval(*np.quantile(v, [0.025, 0.975])) for name, v in resampled(trials, draw).items()}


def bootstrap(trials: Trials, random: np.random.Generator) -> dict[str, Interval]:
    """Percentiles of resampled speakers, which this package used before."""
    return percentiles(trials, lambda n: random.multinomial(n, np.full(n, 1.0 / n)).astype(float))


def bayesian(trials: Trials, random: np.random.Generator) -> dict[str, Interval]:
    """The Bayesian bootstrap: exponential weights of the speakers."""
    return percentiles(trials, lambda n: random.exponential(size=n))


def symmetric(trials: Trials, random: np.random.Generator) -> dict[str, Interval]:
    """The value and its jackknife variance, with Student's t."""
    grouped = by_speaker.grouped(*trials.judged())
    found = {}
    for name, v, left_out in zip(METRICS, *by_speaker.jackknife(by_speaker.values_of(METRICS), grouped, iter)):
        variance, freedom = by_speaker.jackknife_variance(left_out)
        half = student.quantile(0.95, freedom) * variance**0.5
        found[name] = Interval(v - half, v + half)
    return found


def ours(trials: Trials, random: np.random.Generator) -> dict[str, Interval]:
    """`confidence_intervals`."""
    return metrics.confidence_intervals(METRICS, *trials.judged())


def difference(trials: Trials, random: np.random.Generator) -> dict[str, Interval]:
    """`difference_intervals` of two systems, whose embeddings have noise of their own: the true difference is 0."""
    one, other = (trials.scores(trials.x + 0.1 * random.standard_normal(trials.x.shape)) for _ in range(2))
    return metrics.difference_intervals(METRICS, one, other, trials.same, trials.enrol, trials.test)


METHODS = {"bootstrap": bootstrap, "Bayesian": bayesian, "symmetric": symmetric, "ours": ours, "difference": difference}


def coverage(kind: str, speakers: int, samples: int, methods: list[str]) -> None:
    """Print one line for each method."""
    truth = {name: metric(true_curve(kind, np.random.default_rng(0)))[0] for name, metric in METRICS.items()}
    for method in methods:
        hits, below = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0)
        for sample in range(samples):
            random = np.random.default_rng([speakers, sample])
            trials = trials_of(*embeddings(kind, speakers, random), random)
            for name, (low, high) in METHODS[method](trials, random).items():
                value = 0.0 if method == "difference" else truth[name]
                hits[name] += low <= value <= high
                below[name] += low > value if name.startswith("TAR") else high < value
        cells = (f"{hits[name] / samples:.3f} ({below[name] / samples:.3f})" for name in METRICS)
        print(f"| {kind} | {speakers} | {method} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=["even", "uneven", "rare"])
    parser.add_argument("--speakers", nargs="+", type=int, default=[10, 40, 150])
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    print(f"| speakers are | number | method | {' | '.join(METRICS)} |")
    print("| --- " * (3 + len(METRICS)) + "|")
    for kind in options.kinds:
        for speakers in options.speakers:
            coverage(kind, speakers, options.samples, options.methods)


if __name__ == "__main__":
    main()
