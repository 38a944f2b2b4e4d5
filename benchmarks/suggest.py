"""How many classes are active per sample at the start, with published settings and with those of `vm.suggest`.

    python benchmarks/suggest.py

The head is a `PrototypeHead` with its initial prototypes. The embeddings are random: as the prototypes point into all
directions alike, the cosines are those of the first step of a training, whatever its embeddings are.
"""

from __future__ import annotations

import torch
import verimargin as vm

SAMPLES = 64
PUBLISHED = [  # arXiv 2606.31664: number of classes, embedding size, alpha, scale
    (93_431, 512, 1.25, 32.0), (360_232, 512, 1.25, 32.0), (360_232, 512, 1.25, 35.0),
    (5_994, 192, 1.5, 10.0), (5_994, 192, 1.5, 5.0), (5_994, 192, 1.75, 10.0), (5_994, 192, 1.75, 5.0),
]  # fmt: skip
SUGGESTED = [(40, 128), (227, 128), (1_000, 192), (5_994, 192), (93_431, 512), (360_232, 512)]


def active_classes(num_classes: int, size: int, alpha: float, scale: float) -> float:
    torch.manual_seed(0)
    head = vm.PrototypeHead(size, num_classes, vm.q_margin(alpha, scale, 0.2))
    with torch.no_grad():
        head(torch.randn(SAMPLES, size), torch.randint(num_classes, (SAMPLES,)))
    return float(head.active_classes)


def report(source: str, num_classes: int, size: int, alpha: float, scale: float) -> None:
    active = active_classes(num_classes, size, alpha, scale)
    print(
        f"{source:<10}{num_classes:>9,} classes, d {size:>3}: alpha {alpha:<4} scale {scale:<4g} "
        f"{active:7.1f} active, {100 * active / num_classes:6.3f} % (square root of C: {num_classes**0.5:.0f})"
    )


if __name__ == "__main__":
    for setting in PUBLISHED:
        report("published", *setting)
    for num_classes, size in SUGGESTED:
        found = vm.suggest(num_classes, size)
        report("suggested", num_classes, size, found["alpha"], found["scale"])
