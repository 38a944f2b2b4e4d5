"""Time and memory of EER and minDCF compared with SpeechBrain's, for growing numbers of trials.

python benchmarks/metrics.py
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from speechbrain.utils.metric_stats import EER, minDCF
from verimargin import metrics

Metric = Callable[[Any, Any], tuple[float, float]]


def measured(eer: Metric, min_dcf: Metric, positive: Any, negative: Any) -> tuple[float, float, list[float]]:
    """The seconds, the peak of NumPy's memory in MiB, and the values."""
    tracemalloc.start()
    started = time.perf_counter()
    values = [eer(positive, negative)[0], min_dcf(positive, negative)[0]]
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak, values


def main() -> None:
    random = np.random.default_rng(0)
    print("trials     verimargin        SpeechBrain   largest difference")
    for trials in (2_000, 8_000, 100_000, 550_894, 5_000_000):
        positive = random.normal(2, 1, trials // 10).astype(np.float32)
        negative = random.normal(0, 1, trials - len(positive)).astype(np.float32)
        seconds, peak, values = measured(metrics.eer, metrics.min_dcf, positive, negative)
        line = f"{trials:9} {seconds:8.3f} s {peak:6.0f} MiB"
        if trials <= 8_000:  # SpeechBrain's EER and minDCF take quadratic time, and its minDCF quadratic memory
            theirs, _, expected = measured(EER, minDCF, torch.from_numpy(positive), torch.from_numpy(negative))
            line += f" {theirs:8.3f} s     {np.abs(np.subtract(values, expected)).max():.1e}"
        print(line)


if __name__ == "__main__":
    main()
