"""The time of KappaFace's tracking: update() as a share of a head's step, and end_epoch().

    python benchmarks/kappa.py [--classes 100000] [--batch 128] [--size 512] [--samples-per-class 5] [--rounds 15]

The steps of the heads are forward and backward passes of `PrototypeHead` with ArcFace and with Q-Margin, on the
prototypes of a trained model as benchmarks/head.py simulates them. Every step uses other samples of the training set.
The figures do not include the forward pass of the momentum encoder.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import torch
import verimargin as vm
from head import step_of
from measurement import seconds
from prototypes import data
from verimargin.kappa.estimators import SampleMemory

TRACKERS: dict[str, dict[str, Any]] = {
    "momentum": {"estimator": "momentum"},
    "memory": {"estimator": "memory"},
    "memory, float16": {"estimator": "memory", "memory_dtype": torch.float16},
}


def tracker_of(options: dict, sizes: argparse.Namespace) -> vm.KappaTracker:
    """A tracker in the middle of training: every sample has been seen, and the class of sample i is i % classes."""
    counts = torch.full((sizes.classes,), sizes.samples_per_class)
    if options["estimator"] == "memory":
        options = {**options, "num_samples": int(counts.sum())}
    tracker = vm.KappaTracker(counts, sizes.size, **options)
    if isinstance(tracker.estimator, SampleMemory):
        tracker.estimator.memory.normal_(0.0, sizes.size**-0.5)
        tracker.estimator.memory_class.copy_(torch.arange(len(tracker.estimator.memory)) % sizes.classes)
    return tracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--samples-per-class", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    sizes = parser.parse_args()
    weight, embeddings, labels = data("as trained", sizes.classes, sizes.batch, sizes.size)
    heads = {}
    for name, loss in (("arcface", vm.arcface()), ("q-margin", vm.q_margin())):
        heads[name] = vm.PrototypeHead(sizes.size, sizes.classes, loss)
        heads[name].weight.data.copy_(weight)
    trackers = {name: tracker_of(options, sizes) for name, options in TRACKERS.items()}
    taken: dict[str, list[float]] = {name: [] for name in (*heads, *trackers)}
    for round_ in range(sizes.rounds + 1):
        ids = torch.randint(sizes.classes * sizes.samples_per_class, (sizes.batch,))
        step = {n: seconds(step_of(head, embeddings, labels)) for n, head in heads.items()}
        for name, tracker in trackers.items():
            step[name] = seconds(partial(tracker.update, embeddings, ids % sizes.classes, ids))
        if round_:  # the first round is a warm-up
            for name, value in step.items():
                taken[name].append(value)
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(
        f"{sizes.batch} x {sizes.classes} x {sizes.size}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name in heads:
        print(f"{name:16} {1e3 * median[name]:8.2f} ms per step")
    for name, tracker in trackers.items():
        shares = ", ".join(f"{median[name] / median[head]:.2%} of {head}'s step" for head in heads)
        print(
            f"{name:16} {1e3 * median[name]:8.2f} ms per update: {shares}; end_epoch {seconds(tracker.end_epoch):.2f} s"
        )


if __name__ == "__main__":
    main()
