import dataclasses
import math

import pytest
import torch
import torch.distributed as dist
import verimargin as vm
from distributed import on_ranks
from kernel_checks import KERNELS_MUST_RUN
from pretend_cuda import CAN_PRETEND
from small_head import LOSSES, WITH_QUALITY, batch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F
from verimargin._sharding import Shard
from verimargin.head.gradient_memory import GradientMemory
from verimargin.head.kernels import fused, gradients, pairs, products, rounding, threshold
from verimargin.head.kernels.fused import FusedHead, applies, screen
from verimargin.head.kernels.launch import INTERPRETED
from verimargin.head.sparse import SparseHead
from verimargin.head.step import Step
from verimargin.head.target import Target

pytestmark = KERNELS_MUST_RUN


def step_of(loss, labels, classes, column=None):
    return Step(labels, labels if column is None else column, loss, Shard(classes, None), GradientMemory())


def results(head, unit, weight, step):
    unit, weight = unit.clone().requires_grad_(), weight.clone().requires_grad_()
    loss, statistics = head.apply(unit, weight, step)
    factor = torch.linspace(0.5, 2.0, len(loss)).to(loss)
    return loss.detach(), statistics, *torch.autograd.grad((loss * factor).sum(), (unit, weight))


def assert_as_good_as_sparse_head(unit, weight, step):
    """No further from float64 than float32 itself: the float32 head and this one differ from it alike."""
    found = results(FusedHead, unit, weight, step)
    sparse = results(SparseHead, unit, weight, step)
    true = results(SparseHead, unit.double(), weight.double(), step)
    for name, ours, theirs, exact in zip(("loss", "statistics", "unit", "weight"), found, sparse, true):
        error, allowed = (float((x - exact).abs().max()) for x in (ours, theirs))
        assert error <= 2.0 * allowed + 2e-6 * (1.0 + float(exact.abs().max())), name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("q-margin", (3, 101, 16)),
        ("q-margin", (1, 60, 130)),
        ("sparsemax arc", (3, 101, 16)),
        ("alpha 3", (2, 101, 16)),
        ("adaptive", (2, 301, 16)),
    ],
)
def test_loss_statistics_and_both_gradients(name, shape):
    embeddings, weight, labels = batch(*shape, torch.float32)
    assert_as_good_as_sparse_head(F.normalize(embeddings), weight, step_of(LOSSES[name](), labels, shape[1]))


def test_a_margin_that_follows_the_norms():
    embeddings, weight, labels = batch(3, 101, 16, torch.float32)
    step = step_of(WITH_QUALITY["quality q-margin"](), labels, 101)
    step = dataclasses.replace(step, norms=torch.tensor([1.0, 20.0, 40.0]))
    assert_as_good_as_sparse_head(F.normalize(embeddings), weight, step)


@pytest.mark.parametrize("alpha", [1.1, 2.0, 4.0])
@pytest.mark.parametrize(("classes", "size"), [(1, 3), (2, 1), (90, 20)])
def test_all_alphas_and_very_few_classes(alpha, classes, size):
    embeddings, weight, labels = batch(4, classes, size, torch.float32)
    assert_as_good_as_sparse_head(
        F.normalize(embeddings), weight, step_of(vm.q_margin(alpha, 8.0, 0.2), labels, classes)
    )


def test_huge_and_tiny_prototypes():
    embeddings, weight, labels = batch(6, 200, 20, torch.float32)
    weight = F.normalize(weight) * 10.0 ** torch.linspace(-9, 9, 200)[:, None]
    step = step_of(vm.q_margin(1.5, 8.0, 0.2), labels, 200)
    unit = F.normalize(embeddings)
    found, sparse = (results(head, unit, weight, step) for head in (FusedHead, SparseHead))
    for i in (0, 1, 2):
        torch.testing.assert_close(found[i], sparse[i], rtol=1e-5, atol=1e-5)
    scale = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    torch.testing.assert_close(found[3] * scale, sparse[3] * scale, rtol=1e-5, atol=1e-5)


def test_equal_and_nearly_equal_prototypes():
    """Classes whose rounded prototypes are the same, so that float16 alone cannot tell them apart."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 32, generator=generator)
    weight = row + 1e-5 * torch.randn(70, 32, generator=generator)
    weight[:10] = row
    unit = F.normalize(row + 0.3 * torch.randn(4, 32, generator=generator))
    for alpha in (1.5, 2.0):
        assert_as_good_as_sparse_head(unit, weight, step_of(vm.q_margin(alpha, 30.0, 0.2), torch.arange(4), 70))


def test_the_list_holds_the_support_and_little_more(monkeypatch):
    monkeypatch.setattr(fused, "SMALLEST_PART", 1)  # so that every fourth class gives the first bound
    embeddings, weight, labels = batch(4, 400, 16, torch.float32)
    unit, step = F.normalize(embeddings), step_of(vm.q_margin(1.5, 10.0, 0.2), labels, 400)
    found = screen(unit, weight, Target(unit, weight, step, False), step)
    cosine = unit.double() @ F.normalize(weight.double()).T
    logits = 10.0 * cosine
    log_q = torch.zeros_like(logits).scatter(1, labels[:, None], -2.0)
    p, tau = vm.alpha_softargmax(logits, 1.5, log_q)
    assert bool((found.lower <= tau + 1e-5).all())
    listed = torch.zeros_like(p, dtype=torch.bool)
    listed[found.row, found.column] = True
    own = torch.zeros_like(listed).scatter(1, labels[:, None], True)
    assert bool(listed[(p > 0) & ~own].all())
    assert not bool(listed[own].any())
    assert int(listed.sum()) < 10 * int((p > 0).sum()) < 300  # of 1,600; the bound comes from two groups
    torch.testing.assert_close(found.logit.double(), logits[found.row, found.column], rtol=0, atol=1e-5)
    assert_as_good_as_sparse_head(unit, weight, step)


def test_a_target_on_another_rank_is_looked_for_nowhere():
    """With column -1 no entry of this rank's classes is left out."""
    embeddings, weight, labels = batch(5, 40, 8, torch.float32)
    unit, loss = F.normalize(embeddings), vm.q_margin(1.1, 2.0, 0.0)
    here = step_of(loss, labels, 40)
    target = Target(unit, weight, here, False)
    target.column = torch.tensor([-1, int(labels[1]), -1, -1, int(labels[4])])
    found = screen(unit, weight, target, here)
    assert torch.bincount(found.row, minlength=5).tolist() == [40, 39, 40, 40, 39]


def test_all_rows_without_another_active_class():
    weight = torch.eye(6)
    unit, labels = weight[[1, 4]].clone(), torch.tensor([1, 4])
    step = step_of(vm.q_margin(2.0, 20.0, 0.0), labels, 6)
    loss, statistics, of_unit, of_weight = results(FusedHead, unit, weight, step)
    assert loss.tolist() == [0.0, 0.0]
    assert statistics.tolist() == [1.0, 1.0, 1.0]
    assert not bool(of_unit.any())
    assert not bool(of_weight.any())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nan_prototype_makes_every_loss_nan(bad):
    """As on a GPU without kernels, where no assertion stops the step: no class is lost silently."""
    embeddings, weight, labels = batch(4, 50, 8, torch.float32)
    weight[(int(labels[0]) + 1) % 50, 3] = bad
    loss, _ = FusedHead.apply(F.normalize(embeddings), weight, step_of(vm.q_margin(1.5, 8.0, 0.2), labels, 50))
    assert bool(loss.isnan().all())


def test_a_nan_embedding_makes_its_own_loss_nan():
    embeddings, weight, labels = batch(4, 50, 8, torch.float32)
    unit = F.normalize(embeddings)
    unit[2, 5] = math.nan
    loss, _ = FusedHead.apply(unit, weight, step_of(vm.q_margin(1.5, 8.0, 0.2), labels, 50))
    assert loss.isnan().tolist() == [False, False, True, False]


def test_no_gradient_of_frozen_prototypes():
    embeddings, weight, labels = batch(4, 50, 8, torch.float32)
    unit, step = F.normalize(embeddings), step_of(vm.q_margin(1.5, 8.0, 0.2), labels, 50)
    _, _, expected, _ = results(FusedHead, unit, weight, step)
    leaf = unit.clone().requires_grad_()
    loss, _ = FusedHead.apply(leaf, weight, step)
    (loss * torch.linspace(0.5, 2.0, 4)).sum().backward()
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.skipif(INTERPRETED, reason="nothing is computed here")
@pytest.mark.skipif(not (CAN_PRETEND or torch.cuda.is_available()), reason="this torch asks the driver for a fake GPU")
def test_on_a_gpu_no_tensor_of_the_cpu_meets_one_of_the_gpu(monkeypatch):
    """Fake tensors have a device and no values; an operation on two devices is an error."""
    for module in (rounding, products, pairs, threshold, gradients):
        monkeypatch.setattr(module, "launch", lambda *_, **__: None)
    with FakeTensorMode(shape_env=ShapeEnv()):
        unit, weight, labels = (torch.empty(*shape, device="cuda") for shape in ((8, 50), (50_000, 50), (8,)))
        labels = labels.long()
        step = step_of(vm.q_margin(1.5, 8.0, 0.2), labels, 50_000)
        loss, statistics = FusedHead.apply(unit, weight, step)  # the fake implementations
        assert (loss.device, statistics.device) == (unit.device, unit.device)
        rounded, norm, residual = rounding._launch_round_rows(weight)  # from here on, what the real ones do
        e, e_error = rounding.round_unit_rows(unit)
        products._launch_group_maxima(e, rounded[::4], e_error, residual[::4], labels, 8.0)
        words, counts = products.mark(e, rounded, e_error, residual, norm[:8], labels)
        row, column = products.place(words, counts, counts.view(-1).cumsum(0), 1000)
        logit = pairs._launch_pair_logits(unit, weight, norm, row, column, 8.0)
        solved = threshold._launch_solve(logit, labels.new_empty(9), norm[:8], norm[:8], 1.5, only_tau=False)
        found = [*solved, gradients._launch_sums(weight, row, column, logit, 8)]
        found.append(gradients._launch_sums(unit, column, row, logit, 50_000, weight, norm))
        assert {x.device for x in found} == {unit.device}
        assert (found[-2].shape, found[-1].shape) == (unit.shape, weight.shape)


def test_the_same_bits_each_time():
    embeddings, weight, labels = batch(4, 50, 8, torch.float32)
    arguments = (F.normalize(embeddings), weight, step_of(LOSSES["q-margin"](), labels, 50))
    for one, other in zip(results(FusedHead, *arguments), results(FusedHead, *arguments)):
        assert torch.equal(one, other)


def test_where_it_applies():
    unit, weight, labels = torch.eye(3), torch.eye(3), torch.arange(3)
    step = step_of(vm.q_margin(1.5, 8.0, 0.2), labels, 3)
    assert applies(unit, weight, step) == INTERPRETED
    assert not applies(unit, weight, step_of(vm.arcface(8.0, 0.2), labels, 3))
    assert not applies(unit.double(), weight.double(), step)
    assert not applies(unit[:0], weight, step)


SPLIT = [("q-margin", 301), ("q-margin", 5), ("alpha 3", 301), ("adaptive", 301)]
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="the kernels are the same on each rank; the exchange is not")


def _on_rank(name, classes):
    """The results of FusedHead with the classes split over the ranks."""
    embeddings, weight, labels = batch(7, classes, 16, torch.float32)
    shard = Shard(classes, dist.group.WORLD)
    column = labels - shard.start
    column = torch.where((column >= 0) & (column < shard.size), column, -1)
    step = Step(labels, column, LOSSES[name](), shard, GradientMemory())
    part = weight[shard.start : shard.start + shard.size]
    loss, statistics, of_unit, of_weight = results(FusedHead, F.normalize(embeddings), part, step)
    return loss, statistics, shard.sum(of_unit), of_weight


@not_interpreted
@pytest.mark.parametrize(("name", "classes"), SPLIT)
def test_classes_split_over_ranks(name, classes, ranks):
    embeddings, weight, labels = batch(7, classes, 16, torch.float32)
    unit, step = F.normalize(embeddings).double(), step_of(LOSSES[name](), labels, classes)
    loss, statistics, of_unit, of_weight = results(SparseHead, unit, weight.double(), step)
    by_rank = [found[name, classes] for found, _ in ranks]
    for found in by_rank:
        torch.testing.assert_close(found[0].double(), loss, rtol=2e-5, atol=2e-6)
        torch.testing.assert_close(found[1][:2].double(), statistics[:2])
        torch.testing.assert_close(found[1][2].double(), statistics[2], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[2].double(), of_unit, rtol=2e-4, atol=2e-5)
        assert torch.equal(found[0], by_rank[0][0])
    scale = 1 + float(of_weight.abs().max())
    torch.testing.assert_close(
        torch.cat([found[3] for found in by_rank]).double(), of_weight, rtol=0, atol=2e-6 * scale
    )


def _agreed(rank):
    """Whether the ranks take the kernels if rank 0 alone has them at first; and if rank 0 alone has lost them since."""
    unit, weight, labels = torch.eye(6), torch.eye(6)[2 * rank : 2 * rank + 2], torch.arange(6)
    answers = []
    for first, later in ((rank == 0, True), (True, rank != 0)):
        shard = Shard(6, dist.group.WORLD)
        step = Step(labels, labels, vm.q_margin(1.5, 8.0, 0.2), shard, GradientMemory())
        for has in (first, later):
            fused.has_kernels = lambda *_, here=has: here
            answers.append(applies(unit, weight, step))
    return answers


@not_interpreted
def test_ranks_take_the_kernels_together_or_not_at_all(ranks):
    """Otherwise they would wait for each other for ever, because the two computations exchange different values."""
    assert [answers for _, answers in ranks] == [[False, False, True, True]] * 3


def _run(rank):
    return {case: _on_rank(*case) for case in SPLIT}, _agreed(rank)


@pytest.fixture(scope="module")
def ranks():
    return on_ranks(3, _run)
