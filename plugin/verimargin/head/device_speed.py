"""The speeds of devices for `roofline`: vendors' figures of GPUs, and a short measurement of this machine's CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .roofline import Speed
from .screening import screening_type
from .streaming import chunk_size

# Peaks of the data sheets, for dense products: NVIDIA H100 SXM5 80 GB, A100 SXM4 80 GB. A real step stays below them.
GPUS = {
    "h100": Speed(
        "H100 SXM", "the vendor's peak figures", float32=66.9e12, float16=989.4e12, int8=0, bandwidth=3.35e12
    ),
    "a100": Speed(
        "A100 SXM 80 GB", "the vendor's peak figures", float32=19.5e12, float16=312e12, int8=0, bandwidth=2.039e12
    ),
}
MEASURED_SAMPLES = 2048  # a larger batch multiplies no faster
MEMORY = 2**26  # numbers in each of the two tensors of the memory pass, more than a cache holds
FUNCTIONS = 2**19  # values of arccos


def measured_cpu(samples: int, size: int) -> Speed:
    """The speed of this machine's CPU with torch's present number of threads; it takes about a second.

    The times are those of the processor, which other work on the machine changes less than the time that passes.

    Args:
        samples, size: of the head's step, whose product is measured with the same chunks.
    """
    a: list[Tensor] = []
    first_touch = _seconds(lambda: a.append(torch.ones(MEMORY)))
    b = torch.ones(MEMORY)
    add = min(_seconds(lambda: a[0].add_(b, alpha=0.5)) for _ in range(3))  # two reads and a write
    bandwidth = 3 * b.nbytes / add
    x = torch.full((FUNCTIONS,), 0.5)
    arccos = min(_seconds(lambda: torch.acos(x, out=x).fill_(0.5)) for _ in range(3))
    rows = b[: len(b) // size * size].view(-1, size)
    flops = _product_speed(min(samples, MEASURED_SAMPLES), rows, torch.mm)
    screens = screening_type("auto", rows.new_empty(samples, size), scale=1.0) == torch.int8
    return Speed(
        name=f"this CPU, {torch.get_num_threads()} threads",
        source="measured now",
        float32=flops,
        float16=flops,
        int8=_product_speed(min(samples, MEASURED_SAMPLES), rows[: 2**15].char(), torch._int_mm) if screens else 0.0,
        bandwidth=bandwidth,
        new_memory=b.nbytes / max(first_touch - b.nbytes / bandwidth, 1e-9),
        functions=FUNCTIONS / arccos,
    )


def _product_speed(samples: int, weight: Tensor, multiply: Callable[..., Tensor]) -> float:
    """The flops per second of products with chunks of the rows of `weight`, as in a step: the median of eight."""
    left, chunk = weight.new_ones(samples, weight.shape[1]), chunk_size(samples, weight.device)
    out = torch.empty(samples, chunk, dtype=torch.float32 if weight.is_floating_point() else torch.int32)
    rates = []
    for rows in weight.split(chunk)[:8]:
        product = out.view(-1)[: samples * len(rows)].view(samples, -1)
        taken = _seconds(partial(multiply, left, rows.t(), out=product))
        rates.append(2 * left.numel() * len(rows) / taken)
    return statistics.median(rates)


def _seconds(call: Callable[[], object]) -> float:
    """The processor's time of a call, for each thread."""
    start = time.process_time()
    call()
    return max(time.process_time() - start, 1e-9) / torch.get_num_threads()
