import math

import numpy as np
import pytest
import reference
import torch
from distributed import on_ranks
from small_kappa import SIZE, assert_close, epoch, track, tracker_of
from torch.nn.functional import normalize
from verimargin._sharding import Shard
from verimargin.kappa import estimators
from verimargin.kappa.estimators import EpochSums, SampleMemory


def test_the_memory_keeps_its_share_of_the_old_vector():
    """The released code kept 0.1 of it, and began with one direction for all samples."""
    tracker = tracker_of("memory")
    first, second = torch.eye(SIZE)[:1] * 5, torch.eye(SIZE)[1:2] * 0.1
    tracker.update(first, torch.tensor([2]), torch.tensor([7]))
    torch.testing.assert_close(tracker.estimator.memory[7], torch.eye(SIZE)[0])
    tracker.update(second, torch.tensor([2]), torch.tensor([7]))
    torch.testing.assert_close(tracker.estimator.memory[7, :2], torch.tensor([0.3, 0.7]) / math.hypot(0.3, 0.7))
    assert int(tracker.estimator.memory.any(1).sum()) == 1


def test_memory_in_half_precision_and_on_the_cpu():
    full = tracker_of("memory")
    half = tracker_of("memory", memory_dtype=torch.float16, memory_device="cpu")
    for seed in range(3):
        for tracker in (full, half.to("cpu").double().float()):
            track(tracker, epoch(seed))
    assert half.estimator.memory.dtype == half.state_dict()["estimator.memory"].dtype == torch.float16
    assert_close(half, full.kappa.double().numpy(), full.psi.double().numpy(), 2e-3)
    assert float(half.psi.sub(full.psi).abs().max()) > 0
    assert tracker_of("memory", memory_dtype=torch.float16).double().estimator.memory.dtype == torch.float16
    half.to("meta")
    assert half.estimator.memory.device.type == half.estimator.memory_class.device.type == "cpu"
    assert half.psi.device.type == full.to("meta").estimator.memory.device.type == "meta"


CLASSES = 7


def batches(seed=0, count=5, samples=9, dtype=torch.float64):
    """Unit embeddings, some of them zero, their classes, and ids of 20 samples, some of which come twice."""
    generator = torch.Generator().manual_seed(seed)
    of_sample = torch.arange(20) % 5  # classes 5 and 6 are never seen
    for _ in range(count):
        ids = torch.randint(18, (samples,), generator=generator)
        unit = normalize(torch.randn(samples, 4, generator=generator, dtype=dtype))
        unit[seed % samples] = 0
        yield unit, of_sample[ids], ids


def summed(rows):
    """|sum z| and n of each class, from (vector, class) pairs; a zero vector does not count."""
    sums, n = np.zeros((CLASSES, 4)), np.zeros(CLASSES, dtype=int)
    for vector, y in rows:
        sums[y] += vector
        n[y] += bool(np.any(vector))
    return np.linalg.norm(sums, axis=1), n


def assert_lengths(estimator, rows, dtype=torch.float64):
    length, n = estimator.lengths(torch.zeros(CLASSES, dtype=dtype))
    expected_length, expected_n = summed(rows)
    assert length.dtype == dtype
    np.testing.assert_allclose(length, expected_length, atol=1e-6)
    assert n.tolist() == expected_n.tolist()


def test_the_sums_of_an_epoch_begin_anew_with_each():
    estimator = EpochSums(Shard(CLASSES, None), 4, 9).double()
    for seed in range(2):
        rows = []
        for unit, label, _ in batches(seed):
            estimator.update(unit, label)
            rows += zip(unit.numpy(), label.tolist())
        assert_lengths(estimator, rows)
        estimator.begin_epoch()
        assert_lengths(estimator, [])
    assert estimator.check_ids(None, 3, torch.device("cpu")) == []


def test_the_sum_of_a_large_class_keeps_its_digits():
    """In float32, a sum of a million like vectors stops growing by what is added: 1e-3 was lost."""
    estimator = EpochSums(Shard(1, None), 2, 1_000_000)
    unit, label = torch.tensor([[0.6, 0.8]]).expand(2**16, 2), torch.zeros(2**16, dtype=torch.long)
    for _ in range(16):
        estimator.update(unit, label)
    length, n = estimator.lengths(torch.zeros(1))
    assert int(n) == 2**20
    assert float(length) == pytest.approx(2**20 * float(unit[0].double().norm()), rel=1e-7)
    assert EpochSums(Shard(1, None), 2, 4096).sums.dtype == torch.float32


def memory_of(**options):
    return SampleMemory(Shard(CLASSES, None), 4, 20, **{"memory_dtype": torch.float64} | options)


@pytest.mark.parametrize("a", [0.1, 0.3, 0.9])
@pytest.mark.parametrize(("class_block", "row_block"), [(2**15, 2**14), (1, 1), (3, 4), (7, 2)])
def test_the_memory_outlives_the_epochs_and_is_summed_in_blocks(a, class_block, row_block, monkeypatch):
    monkeypatch.setattr(estimators, "CLASS_BLOCK", class_block)
    monkeypatch.setattr(estimators, "ROW_BLOCK", row_block)
    estimator, memory, classes = memory_of(memory_momentum=a), {}, {}
    for seed in range(2):
        for unit, label, ids in batches(seed):
            estimator.update(unit, label, ids)
            seen = unit.any(1)
            reference.remember(memory, unit[seen].numpy(), ids[seen].tolist(), a)
            classes |= dict(zip(ids[seen].tolist(), label[seen].tolist()))
        assert_lengths(estimator, [(memory[i], classes[i]) for i in memory])
        estimator.begin_epoch()
    assert len(memory) < 20
    for i in range(20):
        np.testing.assert_allclose(estimator.memory[i], memory.get(i, np.zeros(4)), atol=1e-12)
        assert int(estimator.memory_class[i]) == classes.get(i, -1)


@pytest.mark.parametrize("a", [0.3, 0.0])
def test_a_zero_vector_neither_counts_nor_spoils_the_memory(a):
    estimator, zero, first = memory_of(memory_momentum=a), torch.zeros(1, 4).double(), torch.eye(4).double()[:1]
    estimator.update(zero, torch.tensor([2]), torch.tensor([8]))
    assert int(estimator.memory_class[8]) == -1
    estimator.update(first, torch.tensor([2]), torch.tensor([8]))
    estimator.update(zero, torch.tensor([2]), torch.tensor([8]))
    torch.testing.assert_close(estimator.memory[8], first[0])


def _lengths_on(rank):
    group = torch.distributed.group.WORLD
    classes = Shard(CLASSES, group)
    sums, memory = EpochSums(classes, 4, 9).double(), SampleMemory(classes, 4, 21, memory_dtype=torch.float64)
    for unit, label, ids in batches():  # each rank is shown all samples, and keeps its own
        sums.update(unit, label)
        memory.update(unit, label, ids)
    like = torch.zeros(CLASSES, dtype=torch.float64)
    return len(sums.sums), len(memory.memory), sums.lengths(like), memory.lengths(like)


def test_each_rank_keeps_a_part_and_gives_the_lengths_of_all():
    sums, memory = EpochSums(Shard(CLASSES, None), 4, 9).double(), memory_of()
    for unit, label, ids in batches():
        sums.update(unit, label)
        memory.update(unit, label, ids)
    like = torch.zeros(CLASSES, dtype=torch.float64)
    results = on_ranks(2, _lengths_on)
    assert [result[:2] for result in results] == [(4, 11), (3, 10)]
    for *_, of_sums, of_memory in results:
        torch.testing.assert_close(of_sums, sums.lengths(like))
        torch.testing.assert_close(of_memory, memory.lengths(like))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="sample_ids are missing"):
        memory_of().check_ids(None, 3, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"sample id 20 of sample 1 is outside 0\.\.19: num_samples is 20"):
        memory_of().check_ids(torch.tensor([0, 20]), 2, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"memory_momentum is 1.0: give a number in \[0, 1\)"):
        memory_of(memory_momentum=1)
    with pytest.raises(ValueError, match="memory_device is 'cuda'"):
        memory_of(memory_device="cuda")
    with pytest.raises(ValueError, match="num_samples is 0: give an integer >= 1"):
        SampleMemory(Shard(1, None), 4, 0)
    estimator, unit = memory_of(), torch.eye(4).double()[:1]
    estimator.update(unit, torch.tensor([2]), torch.tensor([8]))
    with pytest.raises(ValueError, match="sample id 8 comes with class 3, but came with class 2 before"):
        estimator.update(unit, torch.tensor([3]), torch.tensor([8]))


@pytest.mark.parametrize("labels", [[0, 1, 3], [3, 1, 0]])
def test_copies_of_a_sample_in_one_batch_have_one_class(labels):
    """The larger class was taken, in silence."""
    estimator, ids = memory_of(), torch.tensor([8, 5, 8])
    with pytest.raises(ValueError, match=r"sample id 8 comes with class 0, but came with class 3 before or in this"):
        estimator.update(torch.eye(4).double()[:3], torch.tensor(labels), ids)
    assert not estimator.memory.any()
    assert (estimator.memory_class == -1).all()
    estimator.update(torch.eye(4).double()[:3], torch.tensor([3, 1, 3]), ids)
    assert estimator.memory_class[[5, 8]].tolist() == [1, 3]
