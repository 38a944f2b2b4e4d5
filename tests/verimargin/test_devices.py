"""Every computation of the core on a GPU: on one that is pretended, and on a real one where there is one.

The results are those of the CPU. On the pretended one, no tensor of the CPU may meet one of the GPU.
"""

import copy
import subprocess
import sys

import pytest
import torch
import verimargin as vm
from pretend_cuda import CAN_PRETEND, on_pretend_cuda, pretend_cuda, real
from small_head import LOSSES, WITH_QUALITY, batch, head_with
from verimargin.head.kernels import fused

ALL = {**LOSSES, **WITH_QUALITY}
with_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class RealGpu:
    def __enter__(self):
        return []

    def __exit__(self, *_):
        torch.cuda.synchronize()


class Device:
    """Where a test computes: `with device:` around it, `put` moves a tensor or a module there."""

    def __init__(self, pretended):
        self.place, self.put = (pretend_cuda, on_pretend_cuda) if pretended else (RealGpu, lambda x: x.cuda())


can_pretend = pytest.mark.skipif(not CAN_PRETEND, reason="this torch cannot pretend a GPU")


@pytest.fixture(
    params=[pytest.param(True, id="pretended", marks=can_pretend), pytest.param(False, id="cuda", marks=with_a_gpu)]
)
def gpu(request):
    return Device(request.param)


def same(found, expected, **tolerances):
    assert found.device.type == "cuda"
    torch.testing.assert_close(real(found).cpu(), expected.detach(), **tolerances)


def head_step(head, embeddings, labels):
    embeddings = embeddings.requires_grad_()
    loss = head(embeddings, labels)
    loss.backward()
    return loss, embeddings.grad, head.weight.grad


@can_pretend
def test_the_pretended_gpu_finds_what_does_not_belong_together():
    with pretend_cuda() as waits:
        x = on_pretend_cuda(torch.ones(3))
        with pytest.raises(AssertionError, match=r"aten.add.Tensor: a CPU tensor of shape \(3,\) meets one of the GPU"):
            x + torch.ones(3)
        assert not waits
        assert float(x.sum()) == 3.0
        assert (x > 0).nonzero().shape == (3, 1)
        assert waits == ["aten::_local_scalar_dense", "aten::nonzero"]
        assert real(x + 1).tolist() == (torch.zeros(3, device="cuda") + 2).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("screening", ["off", "auto"])
@pytest.mark.parametrize("name", ALL)
def test_a_step_of_the_head(gpu, name, screening):
    embeddings, weight, labels = batch(24, 301 if name == "adaptive" else 3000, 16, torch.float32)
    expected = head_step(head_with(weight, ALL[name](), screening="off"), embeddings.clone(), labels)
    with gpu.place():
        head = gpu.put(head_with(weight, ALL[name](), screening=screening))
        found = head_step(head, gpu.put(embeddings.clone()), gpu.put(labels))
        for ours, theirs in zip(found, expected):
            same(ours, theirs, rtol=1e-4, atol=2e-6 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("name", [name for name, loss in ALL.items() if loss().alpha > 1])
def test_a_step_in_fused_kernels_waits_for_nothing_but_the_number_of_survivors(gpu, name, monkeypatch):
    """On the pretended GPU the references of the kernels compute; what they wait for stays inside them."""
    embeddings, weight, labels = batch(24, 301 if name == "adaptive" else 3000, 16, torch.float32)
    expected = head_step(head_with(weight, ALL[name](), screening="off"), embeddings.clone(), labels)
    monkeypatch.setattr(fused, "applies", lambda *_: True)
    with gpu.place() as waits:
        head = gpu.put(head_with(weight, ALL[name]()))
        x, y = gpu.put(embeddings.clone()).requires_grad_(), gpu.put(labels)
        loss = head(x, y)
        loss.backward()
        assert not waits
        for ours, theirs in zip((loss, x.grad, head.weight.grad), expected):
            same(ours, theirs, rtol=1e-4, atol=2e-6 * max(1.0, float(theirs.abs().max())))
        assert float(real(head.active_classes)) > 1


@pytest.mark.parametrize("name", ["q-margin", "arcface"])
def test_a_step_of_a_sampled_head(gpu, name):
    embeddings, weight, labels = batch(24, 3000, 16, torch.float32)
    with gpu.place():
        head = gpu.put(head_with(weight, LOSSES[name](), sample_rate=0.1))
        loss, grad, grad_weight = head_step(head, gpu.put(embeddings), gpu.put(labels))
        assert torch.isfinite(real(loss))
        assert real(grad).any()
        assert int(real(grad_weight).any(1).sum()) <= 300


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["q-margin", "arcface"])
def test_embeddings_in_half_precision_under_autocast(gpu, name, dtype):
    embeddings, weight, labels = batch(24, 3000, 16, torch.float32)
    embeddings = embeddings.to(dtype)
    expected = head_step(head_with(weight, LOSSES[name]()), embeddings.clone(), labels)
    with gpu.place():
        head = gpu.put(head_with(weight, LOSSES[name]()))
        with torch.autocast("cuda", dtype=dtype):
            found = head_step(head, gpu.put(embeddings.clone()), gpu.put(labels))
        assert found[1].dtype == dtype
        assert found[2].dtype == torch.float32
        for ours, theirs in zip(found, expected):
            same(ours, theirs, rtol=1e-2, atol=2e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_cosines(gpu, name):
    _, _, labels = batch()
    cosine = torch.rand(13, 301, generator=torch.Generator().manual_seed(0)) * 2 - 1
    loss = LOSSES[name]()
    plain = cosine.clone().requires_grad_()
    value = loss(plain, labels)
    value.backward()
    with gpu.place():
        moved = gpu.put(cosine.clone()).requires_grad_()
        found = gpu.put(copy.deepcopy(loss))(moved, gpu.put(labels))
        found.backward()
        same(found, value)
        same(moved.grad, plain.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 3.0])
def test_alpha_softargmax(gpu, alpha):
    logits = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    p, tau = vm.alpha_softargmax(logits, alpha)
    with gpu.place():
        found_p, found_tau = vm.alpha_softargmax(gpu.put(logits), alpha)
        same(found_p, p, rtol=1e-4, atol=1e-6)
        same(found_tau, tau)


@pytest.mark.parametrize("estimator", ["momentum", "memory"])
def test_the_kappa_tracker(gpu, estimator):
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(2, 9, (30,), generator=generator)
    embeddings = torch.randn(200, 8, generator=generator)
    labels, ids = torch.randint(30, (200,), generator=generator), torch.arange(200)
    options = {"num_samples": 200} if estimator == "memory" else {}

    def tracked(put):
        tracker = vm.KappaTracker(counts, 8, estimator=estimator, **options)
        tracker = put(tracker)
        for start in range(0, 200, 50):
            part = slice(start, start + 50)
            known = {"sample_ids": put(ids[part])} if estimator == "memory" else {}
            tracker.update(put(embeddings[part]), put(labels[part]), **known)
        tracker.end_epoch()
        return tracker

    expected = tracked(lambda x: x)
    with gpu.place():
        found = tracked(gpu.put)
        same(found.psi, expected.psi, rtol=1e-4, atol=1e-5)
        same(found.kappa, expected.kappa, rtol=1e-4, atol=1e-4)


def test_ida_scores(gpu):
    generator = torch.Generator().manual_seed(0)
    anchors, f = torch.randn(60, 8, generator=generator), torch.randn(20, 8, generator=generator)
    i, j = torch.randint(20, (50,), generator=generator), torch.randint(20, (50,), generator=generator)
    scorer = vm.IDAScorer(anchors, k=5)
    with gpu.place():
        moved = vm.IDAScorer(gpu.put(anchors), k=5)
        same(moved.density(gpu.put(f)), scorer.density(f), rtol=1e-4, atol=1e-6)
        same(moved.score(gpu.put(f[:10]), gpu.put(f[10:])), scorer.score(f[:10], f[10:]), rtol=1e-4, atol=1e-6)
        same(moved.score_pairs(gpu.put(f), i, j, log=True), scorer.score_pairs(f, i, j, log=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cohort_size", [None, 7])
def test_score_normalisation(gpu, cohort_size):
    generator = torch.Generator().manual_seed(0)
    f, cohort = torch.randn(20, 8, generator=generator), torch.randn(40, 8, generator=generator)
    i, j = torch.arange(10), torch.arange(10, 20)
    plain = vm.ScoreNorm(cohort, cohort_size).score_pairs(f, i, j)
    with gpu.place():
        found = vm.ScoreNorm(gpu.put(cohort), cohort_size).score_pairs(gpu.put(f), i, j)
        same(found, plain, rtol=1e-4, atol=1e-5)


def test_the_regressor(gpu):
    generator = torch.Generator().manual_seed(0)
    f, density = torch.randn(60, 8, generator=generator), torch.rand(60, generator=generator) + 0.1
    regressor = vm.SupportSetRegressor(8, 16)
    regressor.fit(f, density, epochs=1)
    with gpu.place():
        same(gpu.put(copy.deepcopy(regressor)).density(gpu.put(f)), regressor.density(f), rtol=1e-4, atol=1e-5)


def test_the_momentum_encoder(gpu):
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    with gpu.place():
        moved = gpu.put(copy.deepcopy(network))
        slow, expected = vm.MomentumEncoder(moved), vm.MomentumEncoder(network)
        expected.update(network)
        slow.update(moved)
        same(slow(gpu.put(x)), expected(x), rtol=1e-4, atol=1e-5)


@with_a_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_with_a_gradient_scaler(dtype):
    """The loss falls, and a step with an infinite gradient changes no prototype."""
    embeddings, weight, labels = batch(64, 3000, 16, torch.float32)
    backbone = torch.nn.Linear(16, 16).cuda()
    head = head_with(weight, LOSSES["q-margin"]()).cuda()
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1)
    scaler, losses = torch.amp.GradScaler("cuda", init_scale=2.0**40), []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype):
            loss = head(backbone(embeddings.cuda()), labels.cuda())
        before = head.weight.detach().clone()
        scaler.scale(loss).backward()
        skipped = not bool(torch.isfinite(head.weight.grad).all())
        scaler.step(optimizer)
        scaler.update()
        assert not skipped or torch.equal(head.weight, before)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@with_a_gpu
def test_a_wrong_label_is_asserted_on_the_device():
    """In a process of its own, because the assertion ends the use of the GPU."""
    code = (
        "import torch, verimargin as vm\n"
        "head = vm.PrototypeHead(8, 20, vm.q_margin(1.5, 8.0, 0.2)).cuda()\n"
        "head(torch.randn(2, 8).cuda(), torch.tensor([3, 20]).cuda())\n"
        "torch.cuda.synchronize()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0
    assert "assert" in run.stderr.lower()


def _nccl_rank(rank, address):
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", init_method=address, rank=rank, world_size=2)
    embeddings, weight, labels = batch(16, 301, 16, torch.float32)
    world = torch.distributed.group.WORLD
    head = vm.PrototypeHead(16, 301, LOSSES["q-margin"](), process_group=world).cuda()
    head.weight.data.copy_(weight[head.shard.start : head.shard.start + head.shard.size])
    own = slice(8 * rank, 8 * rank + 8)
    loss, *_ = head_step(head, embeddings[own].cuda(), labels[own].cuda())
    expected = head_with(weight, LOSSES["q-margin"]())(embeddings, labels)
    torch.testing.assert_close(loss.detach().cpu(), expected.detach())
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")
def test_two_processes_with_nccl(tmp_path):
    torch.multiprocessing.spawn(_nccl_rank, (f"file://{tmp_path}/store",), nprocs=2)
