"""Memory and time of small workloads, computed by hand."""

import math

import pytest
from verimargin.head import roofline
from verimargin.head.kernels import fused, products
from verimargin.head.roofline import (
    Memory,
    Pass,
    Speed,
    Workload,
    memory,
    partial_fc,
    prototype_head_memory,
    q_margin,
    seconds,
    sgd,
)

MIB = 2**20
SPEED = Speed(
    "slow", "by hand", float32=1e9, float16=4e9, int8=8e9, bandwidth=1e8, new_memory=5e7, functions=2e8, start=0.0
)


def passes(cost):
    return {part.name: part for part in cost.passes}


def test_the_sizes_of_a_rank():
    work = Workload(10, 3, 4, 5)
    assert (work.rows, work.samples, work.numbers) == (4, 12, 20), "the first rank holds one class more"
    work = Workload(2_000_000, 8, 128, 512)
    assert (work.rows, work.samples, work.active) == (250_000, 1024, 128_000)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 8, 8), "classes is 0"),
        ((10, 0, 8, 8), "ranks is 0"),
        ((10, 1, 2.5, 8), "batch is 2.5: give an integer >= 1"),
        ((10, 1, 8, -1), "size is -1"),
        ((math.inf, 1, 8, 8), "classes is inf"),
        ((math.nan, 1, 8, 8), "classes is nan"),
        ((3, 8, 8, 8), "there are 3 classes on 8 ranks: give each rank at least one"),
    ],
)
def test_wrong_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        Workload(*sizes)


def test_a_pass_takes_the_longer_of_arithmetic_and_traffic():
    assert Pass("", flops=2e9, bytes=1e8).seconds(SPEED) == 2.0
    assert Pass("", flops=2e9, bytes=1e8, precision="float16").seconds(SPEED) == 1.0
    assert Pass("", flops=16e9, bytes=1e8, precision="int8").seconds(SPEED) == 2.0
    assert Pass("", flops=1e9, functions=2e8).seconds(SPEED) == 2.0
    assert Pass("", bytes=1e8, new=1e8).seconds(SPEED) == 3.0, "touching new memory comes to it"
    assert seconds([Pass("", flops=1e9), Pass("", bytes=3e8)], SPEED) == 4.0
    slow_start = Speed("", "", 1e9, 1e9, 0.0, 1e9, start=0.25)
    assert Pass("", starts=4).seconds(slow_start) == 1.0


def test_the_peak_has_the_head_or_the_optimiser_but_not_both():
    assert Memory(10, 10, 10, float16_copy=5, head=1, optimiser=8).peak == 38
    assert Memory(10, 10, 10, float16_copy=5, head=4, optimiser=8).peak == 39


def test_the_memory_of_two_million_classes_on_eight_ranks():
    """250,000 x 512 numbers of four bytes are 488.28125 MiB."""
    work = Workload(2_000_000, 8, 128, 512)
    cost = q_margin(work, gpu=True)
    found = memory(work, cost.float16_copy, cost.working)
    assert found.prototypes == found.gradient == found.momentum == found.optimiser == 512_000_000
    assert found.float16_copy == 256_000_000
    # 1,024 x 250,000 / (4 x 32) maxima; a bit for each pair; two floats per class; 2 x (128,000 + 1,024) candidates;
    # eight numbers for each of the 8 x 128,000 candidates of all ranks
    assert found.head == 8_000_000 + 32_000_000 + 2_000_000 + 36_126_720 + 32_768_000
    assert found.peak == 4 * 512_000_000, "SGD needs more than the head does"


def test_the_memory_of_q_margin_on_a_cpu():
    cost = q_margin(Workload(100_000, 1, 128, 512), gpu=False)
    chunk, norms, block, candidates = 2 * MIB, 400_000, 8 * MIB, 280 * (6_400 + 128)
    assert (cost.float16_copy, cost.working) == (0, chunk + norms + block + candidates)
    screened = q_margin(Workload(100_000, 1, 128, 512), gpu=False, int8=True)
    # sums and logits of a chunk of 4,096 classes, their rows in float32 and in int8, and a residual for each class
    assert screened.working == cost.working + 2 * chunk + 5 * 4096 * 512 + norms


def test_the_candidates_double_but_are_never_more_than_the_pairs():
    """1,000 classes and 8 samples have 8,000 pairs."""
    assert Workload(1_000, 1, 8, 4, active_share=0.25).candidates == 4_000 + 16
    assert Workload(1_000, 1, 8, 4, active_share=1.0).candidates == 8_000 + 16
    for gpu in (False, True):
        few, all_ = (q_margin(Workload(1_000, 1, 8, 4, share), gpu).working for share in (0.25, 1.0))
        assert all_ - few == 140 * 4_000


def test_subcenters_multiply_the_prototypes_and_not_the_active_ones():
    work = Workload(100_000, 2, 8, 4).with_subcenters(3)
    assert (work.classes, work.rows) == (300_000, 150_000)
    assert work.active == Workload(100_000, 2, 8, 4).active


def test_a_wrong_share_is_named():
    with pytest.raises(ValueError, match="active_share is 0"):
        Workload(10, 1, 8, 4, active_share=0.0)


def test_the_memory_of_partial_fc():
    """8 samples and 1,000,000 classes of size 4: a (B, C) matrix has 32,000,000 bytes, a (C, d) one 16,000,000."""
    work = Workload(1_000_000, 1, 8, 4)
    assert partial_fc(work, fp16=False).working == 16_000_000 + 4 * 32_000_000
    half = partial_fc(work, fp16=True)
    assert (half.float16_copy, half.working) == (8_000_000, 4 * 32_000_000)
    sampled = partial_fc(work, fp16=False, sample_rate=0.1)
    assert sampled.working == 1_600_000 + 4 * 3_200_000 + 1_600_000
    wide = partial_fc(Workload(1_000_000, 1, 1, 100), fp16=False)
    assert wide.working == 4 * 400_000_000, "with few samples the normalised prototypes take more than the logits"


def test_the_memory_of_a_prototype_head():
    """10,000 classes of size 4: the logits of 8 samples, two numbers for each class, four blocks of 1,024 rows."""
    work = Workload(10_000, 1, 8, 4)
    dense = prototype_head_memory(work, alpha=1.0, gpu=True)
    assert dense == Memory(160_000, 160_000, 160_000, 0, 320_000 + 80_000 + 65_536, 160_000)
    sampled = prototype_head_memory(work, alpha=1.0, gpu=True, sample_rate=0.5)
    assert sampled.head == 160_000 + 40_000 + 65_536 + 2 * 80_000
    sparse, cost = prototype_head_memory(work, alpha=1.25, gpu=True), q_margin(work, gpu=True)
    assert (sparse.float16_copy, sparse.head) == (cost.float16_copy, cost.working)


def test_the_products_of_the_heads():
    """2 B C d operations each: one of Q-Margin's on a CPU, one and a quarter on a GPU, three of PartialFC's."""
    work = Workload(1_000_000, 2, 8, 4)
    product = 2 * 16 * 500_000 * 4

    def flops(cost, precision):
        products = [part for part in cost.passes if part.name.startswith("product")]
        return sum(part.flops for part in products if part.precision == precision)

    assert flops(q_margin(work, gpu=False), "float32") == product
    assert flops(q_margin(work, gpu=False, int8=True), "int8") == product
    assert flops(q_margin(work, gpu=True), "float16") == 1.25 * product
    assert flops(partial_fc(work, fp16=True), "float16") == 3 * product
    assert flops(partial_fc(work, fp16=False), "float32") == 3 * product
    assert flops(partial_fc(work, False, 0.25), "float32") == 0.75 * product


def test_the_passes_of_q_margin_over_the_prototypes_on_a_cpu():
    work = Workload(1_000, 1, 2, 10)
    found = passes(q_margin(work, gpu=False))
    assert found["norms of the prototypes"].bytes == 2 * 40_000
    assert found["gradient set to zero"].bytes == 80_000
    # 1 active class per 2 samples and their own: (1 + 2) pairs, each 12 rows of 40 bytes; nearly 3 classes of 10 rows
    assert found["gradient of the active classes"].bytes == pytest.approx(12 * 40 * 3 + 10 * 40 * 3, rel=2e-3)


def test_each_gpu_solves_for_the_thresholds_over_the_classes_of_all():
    """In one kernel: 8 times 128 samples with 500 of a million active classes each, whose logits it reads 5 times."""
    found = passes(q_margin(Workload(1_000_000, 8, 128, 512), True))["thresholds"]
    assert (found.starts, found.bytes) == (1, 5 * 4 * 8 * 128 * 500)


def test_the_kernels_tiles_are_those_of_the_kernels():
    assert (roofline.SAMPLE, roofline.GROUP) == (fused.SAMPLE, products.GROUP)


def test_sgd_reads_and_writes_the_prototypes_eleven_times_and_fused_five_times():
    work = Workload(1_000, 1, 2, 10)
    assert sum(part.bytes for part in sgd(work)) == 11 * 40_000
    assert sum(part.new for part in sgd(work)) == 40_000
    assert sum(part.bytes for part in sgd(work, fused=True)) == 5 * 40_000


def test_a_wrong_sample_rate_is_named():
    with pytest.raises(ValueError, match=r"sample_rate is 0.0"):
        partial_fc(Workload(10, 1, 1, 1), fp16=False, sample_rate=0.0)
