"""Adaptive s-norm and IDA compared with loops over the trials, on random embeddings in the number of VoxCeleb1-H.

    python benchmarks/scoring.py [--utterances 137924] [--trials 550894] [--size 192] [--cohort 20000]
                                 [--cohort-size 300] [--anchors 50000] [--looped 100]

The loops treat each trial as SpeechBrain's `speaker_verification_cosine.py` does: `torch.nn.CosineSimilarity`
compares both embeddings with the whole cohort (or all anchors), and the mean and std (or IDA's density) are computed
from the nearest. They are timed on the first `--looped` trials, and their time is scaled to all trials. Our time is
that for all trials, starting from raw embeddings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import verimargin as vm
from torch import Tensor
from verimargin.scoring.score_norm import ScoreNorm

OneTrial = Callable[[Tensor, Tensor, Tensor, int], Tensor]
SIMILARITY = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)


def nearest(side: Tensor, others: Tensor, k: int) -> Tensor:
    """The k largest cosines of one embedding (1, d) with the others (M, 1, d)."""
    return torch.topk(SIMILARITY(side.repeat(len(others), 1, 1), others), k, dim=0)[0]


def normalised(enrol: Tensor, test: Tensor, cohort: Tensor, k: int) -> Tensor:
    score = SIMILARITY(enrol, test)[0]
    sides = [nearest(side, cohort, k) for side in (enrol, test)]
    z, t = ((score - cosines.mean(0)) / cosines.std(0) for cosines in sides)
    return (z + t)[0] / 2


def log_dao(enrol: Tensor, test: Tensor, anchors: Tensor, k: int) -> Tensor:
    density1, density2 = (1 / nearest(side, anchors, k).exp().sum(0) for side in (enrol, test))
    density = density1 + density2
    return SIMILARITY(enrol, test)[0] + density.log()[0]


def timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=137_924)
    parser.add_argument("--trials", type=int, default=550_894)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--cohort", type=int, default=20_000)
    parser.add_argument("--cohort-size", type=int, default=300)
    parser.add_argument("--anchors", type=int, default=50_000)
    parser.add_argument("--looped", type=int, default=100)
    sizes = parser.parse_args()
    torch.manual_seed(0)
    f = torch.randn(sizes.utterances, sizes.size)
    cohort, anchors = torch.randn(sizes.cohort, sizes.size), torch.randn(sizes.anchors, sizes.size)
    i, j = torch.randint(sizes.utterances, (2, sizes.trials))
    ours = {
        f"adaptive s-norm ({sizes.cohort_size} of {sizes.cohort:,})": lambda: ScoreNorm(
            cohort, sizes.cohort_size
        ).score_pairs(f, i, j),
        f"IDA-R (10 of {sizes.anchors:,})": lambda: vm.IDAScorer(anchors).score_pairs(f, i, j, log=True),
    }
    loops = [(normalised, cohort[:, None], sizes.cohort_size), (log_dao, anchors[:, None], 10)]
    print(
        f"{sizes.trials:,} trials of {sizes.utterances:,} x {sizes.size}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; loops on {sizes.looped} trials"
    )
    for (name, method), (one_trial, others, k) in zip(ours.items(), loops):

        def loop(one_trial: OneTrial = one_trial, others: Tensor = others, k: int = k) -> Tensor:
            return torch.stack([one_trial(f[i[t], None], f[j[t], None], others, k) for t in range(sizes.looped)])

        seconds, scores = timed(method)
        looped, expected = timed(loop)
        looped *= sizes.trials / sizes.looped
        print(
            f"{name:30} {seconds:7.1f} s, loop {looped:9.0f} s: {looped / seconds:6.0f} times faster; largest "
            f"difference {(scores[: sizes.looped] - expected).abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
