"""Time and peak memory of `verimargin score` with long lists of named trials, and of the metrics with many scores.

    python benchmarks/load.py [--trials 100000 1000000 10000000] [--embeddings 5000] [--intervals]
                              [--scores 100000000]

The lists look like VoxCeleb's (62 characters on a line), the embeddings are random, and the only method is the cosine.
Each line of the tables is measured in a process of its own: the processor's time, which other work on the machine
changes less than the time that passes, and the largest memory of the process, in which 0.5 GiB are libraries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from verimargin import metrics
from verimargin.commands.score import score
from verimargin.files.embeddings import Embeddings, write_embeddings

SPEAKERS = 100


def write_task(folder: Path, trials: int, embeddings: int) -> None:
    """Embeddings, and a list of distinct pairs of them in random order."""
    random = np.random.default_rng(0)
    speaker = random.integers(SPEAKERS, size=embeddings)
    ids = [f"id{10_000 + s}/{s:011d}/{k:05d}" for k, s in enumerate(speaker)]
    voices = random.normal(size=(SPEAKERS, 192))[speaker] + 2 * random.normal(size=(embeddings, 192))
    write_embeddings(folder / "e.npz", Embeddings(ids, torch.from_numpy(voices).float()))
    enrol, test = np.triu_indices(embeddings, 1)
    if trials > len(enrol):
        raise ValueError(f"{embeddings} embeddings have {len(enrol)} pairs: give more --embeddings, or fewer --trials")
    with open(folder / "t.txt", "w") as file:
        for part in np.array_split(random.permutation(len(enrol))[:trials], 100):
            sides = enrol[part], test[part]
            same = speaker[sides[0]] == speaker[sides[1]]
            listed = zip(same.tolist(), *(side.tolist() for side in sides))
            file.writelines(f"{label:d} {ids[a]}.wav {ids[b]}.wav\n" for label, a, b in listed)


def scored(folder: Path, intervals: bool) -> None:
    score(folder / "e.npz", folder / "t.txt", folder / "out", intervals=intervals)


def computed(name: str, scores: int, dtype: type) -> None:
    random, positives = np.random.default_rng(0), scores // 100
    positive, negative = random.standard_normal(positives, dtype), random.standard_normal(scores - positives, dtype)
    positive += 2
    options = {"far": 1e-5} if name == "tar_at_far" else {}
    getattr(metrics, name)(positive, negative, **options)


def measured(call: Callable, *arguments: Any) -> str:
    """The processor's seconds and the peak memory of a call in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, call, *arguments).result()


def _measure(call: Callable, *arguments: Any) -> str:
    torch.set_num_threads(1)
    started, passed = time.process_time(), time.perf_counter()
    with open(os.devnull, "w") as quiet:
        shown = os.dup(1)
        os.dup2(quiet.fileno(), 1)
        call(*arguments)
        os.dup2(shown, 1)
    status = Path("/proc/self/status").read_text()  # getrusage() counts the parent's memory too
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    seconds, passed = time.process_time() - started, time.perf_counter() - passed
    return f"{seconds:7.1f} s of CPU, {passed:7.1f} s passed, peak {peak:5.2f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="*", default=[10**5, 10**6, 10**7])
    parser.add_argument("--embeddings", type=int, default=5000)
    parser.add_argument("--intervals", action="store_true")
    parser.add_argument("--scores", type=int, default=10**8)
    sizes = parser.parse_args()
    print(f"verimargin score, {sizes.embeddings:,} embeddings of 192, intervals: {sizes.intervals}")
    for trials in sizes.trials:
        with tempfile.TemporaryDirectory() as folder:
            write_task(Path(folder), trials, sizes.embeddings)
            print(f"{trials:12,} trials  {measured(scored, Path(folder), sizes.intervals)}", flush=True)
    for dtype in (np.float32, np.float64):
        print(
            f"metrics of {sizes.scores:,} scores in {dtype.__name__}, {sizes.scores * dtype().itemsize / 2**30:.2f} GiB"
        )
        for name in ("det_curve", "eer", "min_dcf", "tar_at_far", "cllr"):
            print(f"{name:>12}         {measured(computed, name, sizes.scores, dtype)}", flush=True)


if __name__ == "__main__":
    main()
