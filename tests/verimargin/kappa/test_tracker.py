import copy
import io
import math

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from small_kappa import COUNTS, SIZE, assert_close, epoch, expected, track, tracker_of
from torch.utils._python_dispatch import TorchDispatchMode
from verimargin import _checks
from verimargin.kappa.tracker import concentration, concentration_weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("constants", [(0.4, 0.7, 0.3), (0.9, 0.2, 0.6)])
@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_equals_the_reference(estimator, constants, dtype, tolerance):
    """Three epochs that leave samples out, with a sample twice in a batch and one twice in an epoch."""
    temperature, gamma, a = constants
    epochs = [epoch(seed, dtype, samples=38) for seed in range(3)]
    e, y, ids = epochs[1][0]
    epochs[1][0] = torch.cat([e, e[:3] + 1]), torch.cat([y, y[:3]]), torch.cat([ids, ids[:3]])
    epochs[1].append((e[4:5] + 1, y[4:5], ids[4:5]))
    tracker = tracker_of(estimator, temperature=temperature, gamma=gamma, memory_momentum=a)
    if estimator == "memory" and dtype == torch.float64:
        tracker = tracker_of(estimator, temperature=temperature, gamma=gamma, memory_momentum=a, memory_dtype=dtype)
    tracker = tracker.to(dtype)
    for done in range(3):
        track(tracker, epochs[done])
        assert_close(tracker, *expected(estimator, epochs[: done + 1], temperature, gamma, a), tolerance)


@pytest.mark.parametrize("size", [1e-14, 1e-18, 1e-21])
def test_the_size_of_an_embedding_does_not_matter(size):
    """A norm below 1e-12 counted as 1e-12, so that the vector was shorter than 1 and the class looked spread out."""
    trackers = []
    for factor in (1.0, size):
        tracker = tracker_of("momentum")
        track(tracker, [(factor * e, y, ids) for e, y, ids in epoch(0, torch.float32)])
        trackers.append(tracker)
    torch.testing.assert_close(trackers[1].kappa, trackers[0].kappa, rtol=2e-3, atol=0)


@pytest.mark.parametrize("kappa", [5.0, 100.0, 1000.0])
@pytest.mark.parametrize("d", [32, 512])
def test_approximation_is_within_its_published_error(d, kappa):
    """Tanabe et al. (2007), cited by Sra (2012): kappa and the approximation lie in r (d - 2 .. d) / (1 - r^2)."""
    r = torch.tensor(reference.mean_resultant(kappa, d), dtype=torch.float64)
    estimate = float(concentration(r, d))
    assert abs(estimate - kappa) <= 2 * float(r / (1 - r**2))
    assert estimate == pytest.approx(kappa, rel=2 / (d - 2))


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_finds_the_concentration_of_sampled_classes(estimator):
    rng, kappas, n, d = np.random.default_rng(0), [40.0, 150.0, 600.0], 2000, 64
    means = np.linalg.qr(rng.standard_normal((d, 3)))[0].T
    samples = np.concatenate([reference.von_mises_fisher(m, k, n, rng) for m, k in zip(means, kappas)])
    labels, ids = torch.arange(3).repeat_interleave(n), torch.randperm(3 * n)
    size = {"num_samples": 3 * n} if estimator == "memory" else {}
    tracker = vm.KappaTracker([n] * 3, d, estimator=estimator, **size)
    track(tracker, [(torch.tensor(samples).float()[i], labels[i], i) for i in ids.split(500)])
    # the approximation's bound, and the sampling error of r, well below 1 % for 2,000 vectors of 64 numbers
    np.testing.assert_allclose(tracker.kappa.numpy(), kappas, rtol=2 / (d - 2) + 0.01)
    assert tracker.psi[0] > tracker.psi[1] > tracker.psi[2]


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_psi_is_one_at_first_and_the_margin_sees_it_change(estimator):
    tracker = tracker_of(estimator, warmup_epochs=2)
    loss = vm.MarginLoss(vm.ArcMargin(0.8, psi=tracker.psi), scale=20.0)
    fixed = vm.MarginLoss(vm.ArcMargin(0.8), scale=20.0)
    cosine, y = torch.linspace(-0.5, 0.9, 64).view(8, 8), torch.arange(8)
    shapes = {name: (value.shape, value.dtype) for name, value in tracker.state_dict().items()}
    track(tracker, epoch(0))
    assert tracker.psi.eq(1).all()
    assert tracker.kappa.gt(0).all()  # to be looked at in the warm-up as well
    assert loss(cosine, y) == fixed(cosine, y)
    track(tracker, epoch(1))
    assert_close(tracker, *expected(estimator, [epoch(0), epoch(1)]))
    assert loss.margin.psi is tracker.psi
    target, _ = loss.target(cosine.diagonal(), y)
    torch.testing.assert_close(target, 20 * (cosine.diagonal().acos() + 0.8 * tracker.psi).cos())
    assert shapes == {name: (value.shape, value.dtype) for name, value in tracker.state_dict().items()}
    exact = torch.ones(2, 8, requires_grad=True)  # a cosine of 1 under a psi: no nan from the arc cosine
    assert loss(exact, y[:2]).isfinite()
    assert torch.autograd.grad(loss(exact, y[:2]), exact)[0].isfinite().all()


def test_no_embedding_is_needed_until_psi_is_due():
    tracker = tracker_of("momentum", warmup_epochs=2)
    tracker.end_epoch()
    assert tracker.kappa.eq(0).all()
    with pytest.raises(RuntimeError, match=r"no embedding was given .* call update"):
        tracker.end_epoch()


def test_r_is_over_the_vectors_really_summed():
    """A dropped last batch or padded copies change no kappa by themselves; the released code divided by the counts."""
    e, y = torch.randn(4, SIZE), torch.tensor([3, 3, 3, 3])
    half, padded = tracker_of("momentum"), tracker_of("momentum")
    track(half, [(e, y)])
    track(padded, [(e, y)] * 4)  # 16 vectors of a class of 9
    r = float(torch.nn.functional.normalize(e).mean(0).norm())
    for tracker in (half, padded):
        assert float(tracker.kappa[3]) == pytest.approx(r * (SIZE - r**2) / (1 - r**2), rel=1e-5)
    memory = tracker_of("memory")
    track(memory, [(e, y, torch.arange(4))] * 4)
    torch.testing.assert_close(memory.kappa[3], half.kappa[3])


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_classes_of_one_vector_or_none_stay_out_of_the_statistics(estimator):
    """Class 0 has one sample, class 5 is never seen; kappas of 1e9 and the largest margins in the released code."""
    batches = [(e[y != 5], y[y != 5], i[y != 5]) for e, y, i in epoch(0)]
    tracker = track(tracker_of(estimator), batches)
    others = torch.tensor([1, 2, 3, 4, 6, 7])
    mean = tracker.kappa[others].mean()
    torch.testing.assert_close(tracker.kappa[[0, 5]], mean.expand(2))
    w_s = (torch.cos(math.pi * torch.tensor([1, 3]) / 14) + 1) / 2
    torch.testing.assert_close(tracker.psi[[0, 5]], 0.3 * w_s + 0.7 * 0.5)
    without = [(e[y > 0], y[y > 0], i[y > 0]) for e, y, i in batches]
    assert torch.equal(track(tracker_of(estimator), without).psi, tracker.psi)


def test_degenerate_training_sets_have_defined_values():
    torch.manual_seed(0)
    e = torch.randn(6, SIZE)
    one_each = track(vm.KappaTracker([1] * 6, SIZE), [(e, torch.arange(6))])
    assert one_each.kappa.eq(0).all()
    torch.testing.assert_close(one_each.psi, torch.full((6,), 0.35))  # w_s = 0 for equal sizes, w_k = 1/2
    equal_sizes = track(vm.KappaTracker([3, 3], SIZE), [(e, torch.arange(6) // 3)])
    torch.testing.assert_close(equal_sizes.psi.sum(), torch.tensor(0.7))  # w_k of the two adds up to 1
    nearly = torch.tensor([20.0, 20.0 + 1e-5], dtype=torch.float64)  # rounding, which is no spread
    w_k, _ = concentration_weight(nearly, nearly > 0, 0.4)
    torch.testing.assert_close(w_k, torch.full_like(nearly, 0.5), atol=1e-3, rtol=0)
    identical = track(vm.KappaTracker([3, 3], SIZE), [(e[[0, 0, 0, 1, 2, 3]], torch.arange(6) // 3)])
    assert float(identical.kappa[0]) == pytest.approx(0.999 * (SIZE - 0.999**2) / (1 - 0.999**2))
    assert identical.psi.isfinite().all()


def test_gamma_and_the_largest_class():
    sizes, kappas = (track(tracker_of("momentum", gamma=g), epoch(0)) for g in (0.0, 1.0))
    assert sizes.psi[4] == 0  # n = max n; the released code's 1.05 max n leaves 0.0056
    assert sizes.psi.argsort(descending=True, stable=True).tolist() == [0, 1, 7, 5, 2, 6, 3, 4]
    assert kappas.psi.argsort().tolist() == kappas.kappa.argsort(descending=True).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_embeddings_without_a_direction(estimator, bad, monkeypatch, caplog):
    """Refused by name on the CPU, left out on an accelerator, which must not stall."""
    batches = epoch(0)
    e, y, ids = batches[0]
    spoilt = torch.where(torch.arange(len(e))[:, None] == 3, bad, e)
    tracker = tracker_of(estimator)
    before = copy.deepcopy(tracker.state_dict())
    with pytest.raises(ValueError, match="sample 3"):
        tracker.update(spoilt, y, ids)
    torch.testing.assert_close(tracker.state_dict(), before, rtol=0, atol=0)
    with monkeypatch.context() as accelerator:
        accelerator.setattr(_checks, "check_finite", lambda *_: None)
        accelerator.setitem(vm.KappaTracker._checked.__globals__, "check_norms", lambda *_: None)
        track(tracker, [(spoilt, y, ids), *batches[1:]])
    keep = torch.arange(len(e)) != 3
    left_out = track(tracker_of(estimator), [(e[keep], y[keep], ids[keep]), *batches[1:]])
    torch.testing.assert_close(tracker.state_dict(), left_out.state_dict())
    assert "1 embeddings were nan, inf or all zero" in caplog.text


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_update_reads_nothing_back_and_does_not_loop(estimator):
    """Meta tensors have no values to wait for; the released code looped over the labels."""

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            return function(*args, **(kwargs or {}))

    calls = []
    tracker = tracker_of(estimator).to("meta")
    for samples in (2, 200):
        index = torch.zeros(samples, dtype=torch.long, device="meta")
        with Count() as count:
            tracker.update(torch.zeros(samples, SIZE, device="meta"), index, index)
        calls.append(count.calls)
    assert calls[0] == calls[1] < 80


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_resumes_exactly(estimator):
    """Saved after every step and epoch's end, into a fresh tracker each time."""
    uninterrupted, tracker = tracker_of(estimator), tracker_of(estimator)

    def resumed(tracker):
        file = io.BytesIO()
        torch.save(tracker.state_dict(), file)
        file.seek(0)
        fresh = tracker_of(estimator)
        loss = vm.kappaface(len(COUNTS))
        loss.margin.psi = fresh.psi
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert loss.margin.psi is fresh.psi
        return fresh

    for seed in range(3):
        for batch in epoch(seed, samples=33):
            uninterrupted.update(*batch)
            tracker.update(*batch)
            tracker = resumed(tracker)
        uninterrupted.end_epoch()
        tracker.end_epoch()
        tracker = resumed(tracker)
        torch.testing.assert_close(tracker.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)
    assert tracker.epoch == 3


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_evaluation_changes_nothing(estimator):
    tracker = track(tracker_of(estimator), epoch(0))
    before = copy.deepcopy(tracker.state_dict())
    tracker.eval()
    tracker.update(*epoch(1)[0])
    torch.testing.assert_close(tracker.state_dict(), before, rtol=0, atol=0)


def test_autocast_and_half_precision_embeddings():
    tracker, rounded = tracker_of("momentum"), tracker_of("momentum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        track(tracker, [(e.half(), *rest) for e, *rest in epoch(0)])
    track(rounded, [(e.half().float(), *rest) for e, *rest in epoch(0)])
    assert torch.equal(tracker.psi, rounded.psi)


def _sharded(rank, sizes):
    """Two epochs with a resume in the middle of each, and a sharded ArcFace head's loss under the psi they give."""
    group = torch.distributed.group.WORLD
    results = {}
    for estimator in ("momentum", "memory"):
        tracker = tracker_of(estimator, process_group=group)
        for seed in range(2):
            for batch in epoch(seed, samples=42):
                tracker.update(*(x.split(sizes)[rank] for x in batch))
                resumed = tracker_of(estimator, process_group=group)
                resumed.load_state_dict(tracker.state_dict())
                tracker = resumed
            if seed == 0:
                tracker.end_epoch()
        state = copy.deepcopy(tracker.state_dict())
        tracker.end_epoch()
        e, y, _ = epoch(5)[0]
        loss = vm.MarginLoss(vm.ArcMargin(0.8, psi=tracker.psi), scale=10.0)
        torch.manual_seed(0)
        head = vm.PrototypeHead(SIZE, len(COUNTS), loss, process_group=group)
        results[estimator] = tracker.psi, tracker.kappa, state, head(e, y).detach()
    return results


@pytest.mark.parametrize(("ranks", "sizes"), [(1, [14]), (2, [5, 9]), (3, [6, 0, 8])])
def test_sharded_equals_unsharded(ranks, sizes):
    """8 classes on 3 ranks and 45 sample ids on 2: uneven shards, uneven batches, global class ids in the margin."""
    by_rank = on_ranks(ranks, _sharded, sizes)
    for estimator in ("momentum", "memory"):
        alone = track(tracker_of(estimator), epoch(0, samples=42))
        for batch in epoch(1, samples=42):
            alone.update(*batch)
        state = copy.deepcopy(alone.state_dict())
        alone.end_epoch()
        e, y, _ = epoch(5)[0]
        torch.manual_seed(0)
        loss = vm.MarginLoss(vm.ArcMargin(0.8, psi=alone.psi), scale=10.0)
        expected_loss = vm.PrototypeHead(SIZE, len(COUNTS), loss)(e.repeat(ranks, 1), y.repeat(ranks)).detach()
        for psi, kappa, *_, head_loss in (result[estimator] for result in by_rank):
            torch.testing.assert_close(psi, alone.psi, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(kappa, alone.kappa, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(head_loss, expected_loss)
        for name in ("sums", "counts") if estimator == "momentum" else ("memory", "memory_class"):
            parts = [result[estimator][2][f"estimator.{name}"] for result in by_rank]
            assert max(map(len, parts)) == -(-len(state[f"estimator.{name}"]) // ranks)  # no rank holds everything
            torch.testing.assert_close(torch.cat(parts), state[f"estimator.{name}"])


MEMORY = {"estimator": "memory", "num_samples": 2}
TRACKER = vm.KappaTracker([2, 3, 1], 4, estimator="memory", num_samples=6)
TRACKER.update(torch.ones(1, 4), torch.tensor([2]), torch.tensor([5]))
E, Y, IDS = torch.ones(2, 4), torch.tensor([0, 1]), torch.tensor([0, 1])
OTHER_ORDER = vm.KappaTracker([3, 2, 1], 4, estimator="memory", num_samples=6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TRACKER.update(E, torch.tensor([0, 3]), IDS),
            "label 3 of sample 1 is outside 0..2: there are 3 classes",
        ),
        (lambda: TRACKER.update(E, Y.float(), IDS), "labels have dtype torch.float32: give integer class ids"),
        (
            lambda: TRACKER.update(E, Y, torch.tensor([0, 6])),
            "sample id 6 of sample 1 is outside 0..5: num_samples is 6",
        ),
        (lambda: TRACKER.update(E, Y, torch.tensor([-1, 0])), "sample id -1 of sample 0"),
        (lambda: TRACKER.update(E, Y, IDS[:1]), r"sample ids have shape \(1,\): give one id per sample, \(2,\)"),
        (lambda: TRACKER.update(E, Y, IDS.float()), "sample ids have dtype torch.float32: give integer sample ids"),
        (lambda: TRACKER.update(E, Y), 'sample_ids are missing: estimator "memory" needs them'),
        (lambda: TRACKER.update(E, Y, torch.tensor([0, 5])), "sample id 5 comes with class 1, but came with class 2"),
        (lambda: TRACKER.update(E[:, :3], Y, IDS), r"embeddings have shape \(2, 3\): give \(B, 4\)"),
        (lambda: TRACKER.update(E.to("meta"), Y, IDS), "the embeddings are on meta, the tracker on cpu"),
        (lambda: copy.deepcopy(TRACKER).half().update(E, Y, IDS), "the tracker is torch.float16: keep it in float32"),
        (lambda: vm.KappaTracker([2, 0, 1], 4), "class 1 has 0 samples: give each class at least one"),
        (lambda: vm.KappaTracker([[2]], 4), r"class_counts are torch.int64 of shape \(1, 1\)"),
        (lambda: vm.KappaTracker([0.5, 0.5], 4), "class_counts are torch.float32"),
        (lambda: vm.KappaTracker([], 4), r"shape \(0,\): give one integer per class"),
        (lambda: vm.KappaTracker([2], 0), "embedding_size is 0"),
        (lambda: vm.KappaTracker([2], 4, warmup_epochs=-1), "warmup_epochs is -1: give an integer >= 0"),
        (lambda: vm.KappaTracker([2], 4, estimator="mean"), 'estimator is \'mean\': give "momentum" or "memory"'),
        (lambda: vm.KappaTracker([2], 4, estimator="memory"), "num_samples is missing"),
        (lambda: vm.KappaTracker([2, 3], 4, estimator="memory", num_samples=4), "class_counts add up to 5"),
        (
            lambda: vm.KappaTracker([2], 4, **MEMORY, memory_momentum=1.0),
            r"memory_momentum is 1.0: give a number in \[0, 1\)",
        ),
        (lambda: vm.KappaTracker([2], 4, temperature=0.0), "temperature is 0.0"),
        (lambda: vm.KappaTracker([2], 4, temperature=1.0), r"temperature is 1.0: give a number in \(0, 1\)"),
        (lambda: vm.KappaTracker([2], 4, gamma=-0.1), "gamma is -0.1"),
        (
            lambda: vm.KappaTracker([2], 4, memory_dtype=torch.float16),
            '"momentum" does not take memory_dtype',
        ),
        (lambda: vm.KappaTracker([2], 4, gamma=1.5), r"gamma is 1.5: give a number in \[0, 1\]"),
        (lambda: vm.KappaTracker([2], 4, gamma=math.nan), "gamma is nan"),
        (
            lambda: vm.KappaTracker([2], 4, **MEMORY, memory_device="cuda"),
            "memory_device is 'cuda'",
        ),
        (
            lambda: vm.KappaTracker([2], 4, **MEMORY, memory_dtype=torch.int8),
            "memory_dtype torch.int8",
        ),
        (
            lambda: vm.PrototypeHead(4, 5, vm.MarginLoss(vm.ArcMargin(0.8, psi=TRACKER.psi), scale=64.0)),
            "psi for 3 classes, the head has 5",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    before = copy.deepcopy(TRACKER.state_dict())
    with pytest.raises(ValueError, match=message):
        call()
    torch.testing.assert_close(TRACKER.state_dict(), before, rtol=0, atol=0)


def test_a_checkpoint_of_other_class_counts_is_refused():
    before = copy.deepcopy(TRACKER.state_dict())
    with pytest.raises(RuntimeError, match=r"saved class counts .* the order of its classes has changed"):
        TRACKER.load_state_dict(OTHER_ORDER.state_dict())
    torch.testing.assert_close(TRACKER.state_dict(), before, rtol=0, atol=0)


def test_kappas_that_are_all_equal_are_told(caplog):
    """As with a momentum encoder that has not left its initial weights."""
    tracker = vm.KappaTracker([2, 3], 4)
    tracker.update(torch.ones(5, 4), torch.tensor([0, 0, 1, 1, 1]))
    tracker.end_epoch()
    assert "each class has the kappa" in caplog.text
    caplog.clear()
    tracker.update(torch.ones(5, 4) + torch.eye(5, 4), torch.tensor([0, 0, 1, 1, 1]))
    tracker.end_epoch()
    assert not caplog.text


def test_the_constants_are_the_papers_unless_others_are_given():
    tracker = vm.KappaTracker([3, 4], 5, estimator="memory", num_samples=7)
    assert (tracker.temperature, tracker.gamma, tracker.warmup_epochs) == (0.4, 0.7, 0)
    assert tracker.estimator.memory_momentum == 0.3
    assert vm.MomentumEncoder(torch.nn.Linear(1, 1)).momentum == 0.999
