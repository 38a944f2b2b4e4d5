"""The time of IDA-R on arrays of IJB-C's size, including densities, relative to the cosine scoring that it replaces.

    python benchmarks/ida.py [--templates 23000] [--pairs 15600000] [--anchors 50000] [--size 512] [--rounds 1]

The cosine is computed as in arcface_torch's IJB evaluators: NumPy, which uses one thread, gathers the normalised
features of 100,000 pairs at a time and sums their products. The features are float32 here; in the evaluators
they are float64, which is slower. Each of 3,531 templates is paired with many others. The pairs are scored in this
order (as in IJB-C's list) and shuffled; both methods take turns within one process. Memory is the peak of a
separate process, without features, anchors and pairs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import verimargin as vm
from measurement import peak_of

BATCH = 100_000
ENROLLED = 3531


def cosine(features: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    score = np.empty(len(i))
    for first in range(0, len(i), BATCH):
        batch = slice(first, first + BATCH)
        score[batch] = np.sum(features[i[batch]] * features[j[batch]], -1)
    return score


def ida(features: np.ndarray, i: np.ndarray, j: np.ndarray, anchors: torch.Tensor) -> np.ndarray:
    pairs = torch.from_numpy(i), torch.from_numpy(j)
    return vm.IDAScorer(anchors).score_pairs(torch.from_numpy(features), *pairs).numpy()


def data(order: str, sizes: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]:
    """Unit features (N, d), the pairs i and j (P,), and anchors (M, d)."""
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    features = torch.randn(sizes.templates, sizes.size, generator=generator)
    features /= torch.linalg.vector_norm(features, dim=1, keepdim=True)
    enrolled = min(ENROLLED, sizes.templates // 2)
    i = np.sort(random.integers(enrolled, size=sizes.pairs))
    if order == "shuffled":
        random.shuffle(i)
    j = random.integers(enrolled, sizes.templates, size=sizes.pairs)
    return features.numpy(), i, j, torch.randn(sizes.anchors, sizes.size, generator=generator)


def peak_memory(side: str, order: str, sizes: argparse.Namespace) -> float:
    """The peak memory in MiB of a process that runs only this method."""
    command = [sys.executable, __file__, "--measure-memory", side, order]
    for name in ("templates", "pairs", "anchors", "size"):
        command += [f"--{name}", str(getattr(sizes, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(side: str, order: str, sizes: argparse.Namespace) -> None:
    features, i, j, anchors = data(order, sizes)
    ida(features[:9], i[:9] % 9, j[:9] % 9, anchors[:50])  # so that the memory of the libraries is not counted
    score = cosine if side == "cosine" else functools.partial(ida, anchors=anchors)
    print(peak_of(lambda: score(features, i, j)))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("templates", 23_000), ("pairs", 15_600_000), ("anchors", 50_000), ("size", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    sizes = parser.parse_args()
    if sizes.measure_memory:
        side, order = sizes.measure_memory
        return measure_memory(side, order, sizes)
    print(
        f"{sizes.templates} templates of {sizes.size}, {sizes.pairs} pairs, {sizes.anchors} anchors, "
        f"torch {torch.__version__}, NumPy {np.__version__}"
    )
    threads = sorted({1, min(2, torch.get_num_threads())})
    for order in ("grouped", "shuffled"):
        features, i, j, anchors = data(order, sizes)
        taken: dict[str, list[float]] = {"cosine": [], **{f"IDA-R, {n} threads": [] for n in threads}}
        for _ in range(sizes.rounds):
            taken["cosine"].append(seconds(lambda: cosine(features, i, j)))  # noqa: B023
            for n in threads:
                torch.set_num_threads(n)
                taken[f"IDA-R, {n} threads"].append(seconds(lambda: ida(features, i, j, anchors)))  # noqa: B023
        for name, values in taken.items():
            ratio = statistics.median(a / b for a, b in zip(values, taken["cosine"]))
            print(
                f"{order:9} {name:17} {statistics.median(values):7.2f} s, {ratio:5.2f}x the cosine's time", flush=True
            )
        for side in ("cosine", "IDA-R"):
            print(f"{order:9} {side:17} {peak_memory(side, order, sizes):7.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
