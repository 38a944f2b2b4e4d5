import time

import torch
from verimargin.head import device_speed
from verimargin.head.device_speed import GPUS, measured_cpu


def test_the_figures_of_the_vendor_are_called_so():
    """H100 SXM and A100 SXM: float16 without sparsity, float32 without tensor cores, and the memory's bandwidth."""
    h100, a100 = GPUS["h100"], GPUS["a100"]
    assert (h100.float16, h100.float32, h100.bandwidth) == (989.4e12, 66.9e12, 3.35e12)
    assert (a100.float16, a100.float32, a100.bandwidth) == (312e12, 19.5e12, 2.039e12)
    assert all("vendor" in speed.source for speed in GPUS.values())


def test_the_speed_of_this_cpu_is_that_of_a_product_and_of_a_memory_pass():
    speed = measured_cpu(64, 256)
    left, right = torch.ones(64, 256), torch.ones(8192, 256)
    out, rates = torch.empty(64, 8192), []
    for _ in range(5):
        start = time.process_time()
        torch.mm(left, right.t(), out=out)
        rates.append(2 * 64 * 256 * 8192 / (time.process_time() - start) * torch.get_num_threads())
    assert max(rates) / 4 < speed.float32 < 4 * max(rates)
    assert 1e9 < speed.new_memory * 2 < 4 * speed.bandwidth < 1e13
    assert 1e7 < speed.functions < 1e12
    assert speed.source == "measured now"


def test_a_large_batch_and_a_large_size_are_measured_in_parts(monkeypatch):
    monkeypatch.setattr(device_speed, "MEMORY", 2**21)
    monkeypatch.setattr(device_speed, "MEASURED_SAMPLES", 64)
    assert measured_cpu(10**6, 2048).float32 > 1e8
    assert measured_cpu(1, 1).float32 > 1e5
