"""How often a paired comparison tells two losses apart, by `verimargin.metrics.differences` and by the jackknife.

python benchmarks/differences.py --speakers 10 40 --samples 200

Two losses are trained with several seeds each, on the speakers of benchmarks/intervals.py. What a training does to an
embedding is noise:

- `recording`: its own for each recording; all trainings are alike otherwise.
- `training`: some trainings have more of it than others (a standard deviation of 15 %).
- `speaker`: besides, each training finds other speakers hard (70 %).
- `loss`: besides the differences between trainings, each loss finds other speakers hard (50 %), with every seed.

With --worse 1 the losses are equally good, and 0.05 should be told apart at the level of 95 %; with --worse 2, the
noise of one has twice the amplitude. In brackets is the mean width of the intervals, as a multiple of the width that a
known normal distribution of the differences would have.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from intervals import METRICS, Trials, embeddings, trials_of
from verimargin import metrics
from verimargin.metrics import DetCurve, Difference

AMPLITUDE = 0.1
SPREADS = {
    "recording": (0.0, 0.0, 0.0),
    "training": (0.15, 0.0, 0.0),
    "speaker": (0.15, 0.7, 0.0),
    "loss": (0.15, 0.0, 0.5),
}


def unknown(metric: Callable, curve: DetCurve) -> tuple[float, float]:
    """A metric of which only the values are known, so that the jackknife is taken."""
    return metric(curve)


METHODS: dict[str, Mapping[str, metrics.CurveMetric]] = {
    "parts": METRICS,
    "jackknife": {name: partial(unknown, metric) for name, metric in METRICS.items()},
}


def trained(
    kind: str, trials: Trials, speaker: np.ndarray, amplitude: np.ndarray, seeds: int, random: np.random.Generator
) -> np.ndarray:
    """The scores (seeds, trials) of the trainings of a loss with this amplitude of the noise for each speaker."""
    of_training, of_speaker, _ = SPREADS[kind]
    rows = []
    for _ in range(seeds):
        of_run = np.exp(of_training * random.standard_normal() + of_speaker * random.standard_normal(len(amplitude)))
        noise = (amplitude * of_run)[speaker, None] * random.standard_normal(trials.x.shape)
        rows.append(trials.scores(trials.x + noise))
    return np.array(rows)


def simulate(
    kind: str, speakers: int, seeds: int, worse: float, methods: list[str], sample: int
) -> dict[str, dict[str, Difference]]:
    random = np.random.default_rng([speakers, sample])
    speaker, x = embeddings("uneven", speakers, random)
    trials = trials_of(speaker, x, random)
    of_loss = SPREADS[kind][2]
    losses = []
    for factor in (1.0, worse):
        amplitude = AMPLITUDE * factor * np.exp(of_loss * random.standard_normal(speakers))
        losses.append(trained(kind, trials, speaker, amplitude, seeds, random))
    one, other = losses
    judged = trials.same, trials.enrol, trials.test
    return {name: metrics.differences(METHODS[name], one, other, *judged) for name in methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(SPREADS), choices=SPREADS)
    parser.add_argument("--speakers", nargs="+", type=int, default=[10, 40])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--worse", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    print(f"| noise | speakers | seeds | method | {' | '.join(METRICS)} |")
    print("| --- " * (4 + len(METRICS)) + "|")
    for kind in options.kinds:
        for speakers in options.speakers:
            for seeds in options.seeds:
                drawn = partial(simulate, kind, speakers, seeds, options.worse, options.methods)
                runs = [drawn(sample) for sample in range(options.samples)]
                for method in options.methods:
                    cells = [cell([run[method][name] for run in runs]) for name in METRICS]
                    print(f"| {kind} | {speakers} | {seeds} | {method} | {' | '.join(cells)} |", flush=True)


def cell(found: list[Difference]) -> str:
    """How often a difference was told, and the width of the intervals."""
    told = np.mean([difference.p_value <= 0.05 for difference in found])
    width = np.mean([np.ptp(difference.interval()) for difference in found])
    return f"{told:.3f} ({width / (2 * 1.96 * np.std([difference.value for difference in found])):.2f})"


if __name__ == "__main__":
    main()
