"""`PartialFC` against upstream's `PartialFC_V2`, and against plain float64 code on all ranks' samples."""

import pathlib
import runpy

import pytest
import reference
import torch
import torch.distributed as dist
import verimargin as vm
from torch.nn import functional as F
from verimargin_insightface import PartialFC

WORKER = pathlib.Path(__file__).with_name("partial_fc_ranks.py")
CASES = runpy.run_path(str(WORKER))["CASES"]
EXACT = [name for name, case in CASES.items() if case[3] == 1.0]
WITH_UPSTREAM = [name for name, case in CASES.items() if case[1]]


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request, python, tmp_path_factory) -> list[dict]:
    """The results of each rank, for every case."""
    out = tmp_path_factory.mktemp("ranks")
    python(WORKER, out, ranks=request.param)
    return [torch.load(out / f"{rank}.pt") for rank in range(request.param)]


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("case", WITH_UPSTREAM)
def test_equals_upstream(arcface_torch, ranks, case):
    for rank in ranks:
        ours, theirs = rank[case]["ours"], rank[case]["upstream"]
        torch.testing.assert_close(ours["loss"], theirs["loss"], atol=1e-5, rtol=1e-5)
        if case != "arcface":  # upstream passes its gradient straight through the arccos
            for name in ("embeddings", "weight"):
                scale = theirs[name].abs().max()
                torch.testing.assert_close(ours[name] / scale, theirs[name] / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", EXACT)
def test_equals_plain_code(ranks, case):
    loss = CASES[case][0]
    embeddings = torch.cat([rank[case]["batch"][0] for rank in ranks]).double().requires_grad_()
    labels = torch.cat([rank[case]["batch"][1] for rank in ranks])
    weight = torch.cat([rank[case]["prototypes"] for rank in ranks]).double().requires_grad_()
    value = plain_loss(F.normalize(embeddings) @ F.normalize(weight).T, labels, loss, plain_quality(embeddings, loss))
    value.backward()
    value = value.detach()
    for rank in ranks:
        assert float(rank[case]["ours"]["loss"]) == pytest.approx(float(value), rel=1e-5)
    for name, expected in (("embeddings", len(ranks) * embeddings.grad), ("weight", weight.grad)):
        ours, scale = torch.cat([rank[case]["ours"][name] for rank in ranks]), expected.abs().max()
        torch.testing.assert_close(ours.double() / scale, expected / scale, atol=1e-5, rtol=0)


def plain_quality(embeddings, loss):
    """w g of the samples of all ranks in the first step; 0 without a quality."""
    if loss.margin.quality is None:
        return torch.zeros(len(embeddings))
    quality, norms = reference.Quality(loss.margin.quality.weight, h=5.0), embeddings.detach().norm(dim=1)
    quality.update(norms)
    return torch.as_tensor(quality.of(norms))


def plain_loss(cosine, labels, loss, g):
    """The mean loss, from the definitions, with tau by bisection; differentiable by d loss / d theta = p - e_y."""
    rows, s, m, alpha = torch.arange(len(labels)), loss.scale, loss.margin.m, loss.alpha
    logits, q = s * cosine, torch.ones_like(cosine)
    target = cosine[rows, labels]
    if isinstance(loss.margin, vm.CosMargin):
        target = target - m
    elif isinstance(loss.margin, vm.ArcMargin):
        target = torch.cos(torch.arccos(target) + m)
    elif isinstance(loss.margin, vm.AdaMargin):
        target = torch.cos(torch.arccos(target) - g * m) - (g * m + m)
    else:
        q[rows, labels] = torch.exp(-s * m * (1 + g.double()))
    logits = logits.index_put((rows, labels), s * target)
    if alpha == 1.0:
        return F.cross_entropy(logits, labels)

    def mass(tau):
        return q * (1 + (alpha - 1) * (logits - tau[:, None])).clamp_min(0) ** (1 / (alpha - 1))

    def divergence(p):
        u = p / q
        return (q * (u**alpha - 1 - alpha * (u - 1))).sum(1) / (alpha * (alpha - 1))

    low, high = logits.amax(1) - 1e3, logits.amax(1) + 1e3
    for _ in range(200):
        middle = (low + high) / 2
        above = mass(middle).sum(1) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    p = mass(low).detach()
    one_hot = F.one_hot(labels, cosine.shape[1]).double()
    value = (p * logits).sum(1) - divergence(p) + divergence(one_hot) - logits[rows, labels]
    slope = (logits * (p - one_hot)).sum(1)
    return (value.detach() + slope - slope.detach()).mean()


def test_state_dict_has_upstreams_key_and_restores_the_margin(one_rank, tmp_path):
    head = PartialFC(vm.cosface(32.0, 0.1), 4, 6)
    head.loss.margin.m = 0.3
    assert list(head.state_dict()) == ["weight"]
    torch.save(head.state_dict(), tmp_path / "head.pt")
    expected = torch.rand(3)
    other = PartialFC(vm.cosface(32.0, 0.1), 4, 6)
    other.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    assert torch.equal(other.weight, head.weight)
    assert other.loss.margin.m == 0.3
    assert torch.equal(torch.rand(3), expected), "the random generator goes on where it was saved"


def test_an_additional_rank_begins_with_its_seed(one_rank):
    """As `resharding` writes it for a rank that no old one corresponds to."""
    head = PartialFC(vm.q_margin(), 4, 6)
    state = head.state_dict()
    state._metadata[""]["verimargin"]["random"] = {"seed": 14}
    head.load_state_dict(state)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(14)))


@pytest.mark.parametrize("loss", [vm.cosface(48.0, 0.1), vm.arcface(32.0, 0.1), vm.q_margin(1.25, 32.0, 0.1)])
def test_the_head_of_another_loss_is_named(one_rank, tmp_path, loss, caplog):
    """It was gone on with, wherever its file had been copied from; to fine-tune with another loss is legitimate."""
    torch.save(PartialFC(loss, 4, 6).state_dict(), tmp_path / "head.pt")
    head = PartialFC(vm.cosface(32.0, 0.1), 4, 6)
    head.load_state_dict(torch.load(tmp_path / "head.pt"))
    assert "was trained with another loss (" in caplog.text
    caplog.clear()
    head.loss.margin.m = 0.3  # a schedule's doing
    head.load_state_dict(head.state_dict())
    assert not caplog.text


def test_psi_is_saved_with_its_head(one_rank):
    head = PartialFC(vm.kappaface(5), 4, 5)
    head.loss.margin.psi[:] = torch.arange(5.0)
    other = PartialFC(vm.kappaface(5), 4, 5)
    other.load_state_dict(head.state_dict())
    assert other.loss.margin.psi.tolist() == [0, 1, 2, 3, 4]
    assert list(head.state_dict()) == ["weight", "loss.margin.psi"]


def test_the_averages_of_the_norms_are_saved_and_missed_by_name(one_rank, caplog):
    head = PartialFC(vm.adaface(), 4, 6)
    head(torch.full((3, 4), 30.0), torch.arange(3))
    assert list(head.state_dict()) == ["weight", "loss.margin.quality.mean", "loss.margin.quality.std"]
    other = PartialFC(vm.adaface(), 4, 6)
    other.load_state_dict(head.state_dict())
    assert other.loss.margin.quality.mean == head.loss.margin.quality.mean == pytest.approx(20.4)
    assert not caplog.text
    with pytest.raises(RuntimeError, match="the checkpoint's margin followed the quality of each sample, as AdaFace's"):
        PartialFC(vm.arcface(), 4, 6).load_state_dict(head.state_dict())
    caplog.clear()
    other.load_state_dict(PartialFC(vm.arcface(), 4, 6).state_dict())
    assert "has no running averages of the embeddings' norms" in caplog.text
    assert "they begin now, at 20.4 and 99" in caplog.text


def test_nested_in_a_module_it_saves_and_loads_plainly(one_rank):
    model = torch.nn.Sequential(PartialFC(vm.q_margin(), 4, 6))
    other = torch.nn.Sequential(PartialFC(vm.q_margin(), 4, 6))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)


def test_an_upstream_checkpoint_loads(one_rank):
    head = PartialFC(vm.q_margin(), 4, 6)
    head.load_state_dict({"weight": torch.ones(6, 4)})
    assert torch.equal(head.weight, torch.ones(6, 4))


def test_a_checkpoint_without_prototypes_is_refused(one_rank):
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight"'):
        PartialFC(vm.q_margin(), 4, 6).load_state_dict({})


@pytest.mark.parametrize("change", [{"ranks": 2}, {"classes": 7}, {"rank": 1}])
def test_another_layout_is_refused(one_rank, change):
    head = PartialFC(vm.q_margin(), 4, 6)
    state = head.state_dict()
    state._metadata[""]["verimargin"]["layout"].update(change)
    with pytest.raises(RuntimeError, match=r"6 prototypes on rank . of ., . classes in all, this one 6 prototypes"):
        head.load_state_dict(state)


def test_another_number_of_prototypes_is_refused(one_rank):
    with pytest.raises(RuntimeError, match=r"5 prototypes .* this one 6 prototypes on rank 0 of 1"):
        PartialFC(vm.q_margin(), 4, 6).load_state_dict({"weight": torch.ones(5, 4)})


@pytest.mark.parametrize(("saved", "ours"), [(3, 1), (1, 2), (3, 2)])
def test_another_number_of_subcenters_is_refused(one_rank, saved, ours):
    state = PartialFC(vm.q_margin(), 4, 6, subcenters=saved).state_dict()
    with pytest.raises(
        RuntimeError, match=r"prototypes of shape .* this one .* resume with the same config.subcenters"
    ):
        PartialFC(vm.q_margin(), 4, 6, subcenters=ours).load_state_dict(state)


@pytest.mark.parametrize("label", [-1, 6])
def test_labels_outside_are_refused(one_rank, label):
    head = PartialFC(vm.q_margin(), 4, 6)
    with pytest.raises(ValueError, match=f"label {label} of sample 1 is outside 0..5"):
        head(torch.randn(2, 4), torch.tensor([0, label]))


def test_labels_may_be_a_column(one_rank):
    head, embeddings = PartialFC(vm.q_margin(), 4, 6), torch.randn(2, 4)
    assert head(embeddings, torch.tensor([[0], [3]])) == head(embeddings, torch.tensor([0, 3]))


def test_upstreams_margin_is_refused(one_rank):
    with pytest.raises(ValueError, match=r"give a MarginLoss"):
        PartialFC(torch.nn.Identity(), 4, 6)


def test_without_a_process_group_it_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call torch.distributed.init_process_group"):
        PartialFC(vm.q_margin(), 4, 6)


@pytest.mark.parametrize("loss", [vm.q_margin(), vm.arcface()], ids=["q-margin", "arcface"])
def test_an_overflow_under_the_gradient_scaler_leaves_the_prototypes(one_rank, loss):
    """The scaler skips the step; the next one, at a lower scale, is the same as without the overflow."""
    torch.manual_seed(0)
    head, plain, embeddings, labels = PartialFC(loss, 4, 6), PartialFC(loss, 4, 6), torch.randn(3, 4), torch.arange(3)
    plain.load_state_dict(head.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)

    def step(scaler):
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        scaler.scale(head(embeddings, labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    step(scaler)
    assert torch.equal(head.weight, plain.weight)
    scaler.update(1.0)
    step(scaler)
    plain(embeddings, labels).backward()
    torch.testing.assert_close(head.weight, plain.weight - 0.1 * plain.weight.grad)
