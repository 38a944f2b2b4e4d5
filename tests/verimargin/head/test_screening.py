import math

import pytest
import torch
import verimargin as vm
from distributed import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_head import LOSSES, batch, head_with, plain_step, step
from torch.nn import functional as F
from verimargin.head import screening, streaming
from verimargin.head.screening import SCREENS, screening_type

SCALE = 32.0
TYPES = [
    pytest.param(
        dtype,
        id=str(dtype)[6:],
        marks=pytest.mark.skipif(
            not screening._multiplies(torch.device("cpu"), dtype), reason=f"this CPU does not multiply {dtype}"
        ),
    )
    for dtype in SCREENS
]
NAMES = [pytest.param(p.id, id=p.id, marks=p.marks) for p in TYPES]


@pytest.fixture
def screens_everything(monkeypatch):
    """Every chunk but the first is screened, however much passes, and all chunks are small."""
    monkeypatch.setattr(streaming, "FIRST", 32)
    monkeypatch.setattr(streaming, "SPARSE", 1e9)
    monkeypatch.setattr(streaming, "chunk_size", lambda *_: 96)
    seen, above = [], screening.Screen.above

    def counted(self, start, stop, bound):
        seen.append(stop - start)
        return above(self, start, stop, bound)

    monkeypatch.setattr(screening.Screen, "above", counted)
    return seen


def largest_excess(unit, weight, dtype, scale=SCALE):
    """The largest excess of the errors over their bound, and the largest share of the bound that an error reaches."""
    norm = weight.norm(dim=1).clamp_min(1e-12)
    screen = SCREENS[dtype](unit, weight, norm, scale, len(weight))
    screened = screen(0, len(weight)).double() * screen.step[:, None].double()
    row, column = (
        i.flatten() for i in torch.meshgrid(torch.arange(len(unit)), torch.arange(len(weight)), indexing="ij")
    )
    bound = screen.error(row, column).double().view_as(screened)
    truth = scale * unit.double() @ (weight.double() / norm.double()[:, None]).T
    error = (screened - truth).abs()
    return float((error - bound).max()), float((error / bound).max())


def unit_rows(rows, size, generator):
    return F.normalize(torch.randn(rows, size, generator=generator))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 3, 64, 512])
def test_the_error_is_within_its_bound(dtype, size):
    """Normal and heavy-tailed rows, one large number, equal numbers, subnormal numbers, huge and tiny norms, zero."""
    if (size, dtype) == (1, torch.int8):
        return  # it is refused
    generator = torch.Generator().manual_seed(size)
    normal = torch.randn(400, size, generator=generator)
    weight = torch.cat(
        [
            normal,
            normal[:50] ** 5,
            F.pad(1e-3 * normal[:50, 1:], (1, 0), value=1.0),
            torch.ones(3, size) * torch.tensor([[1.0], [-1.0], [0.3]]),
            1e18 * normal[:20] / math.sqrt(size),
            1e-11 * normal[:20],
            1e-20 * normal[:20],
            1e-39 * normal[:20],
            torch.zeros(1, size),
            normal[:20] * 10 ** (4 * torch.randn(20, size, generator=generator)),
        ]
    )
    unit = torch.cat([unit_rows(60, size, generator), F.normalize(weight[380:460]), torch.eye(size)[:3]])
    excess, share = largest_excess(unit, weight, dtype)
    assert excess <= 0
    assert size < 64 or share > 0.02  # the test would see a bound that is far too wide, too


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [1.0, 5.0, 32.0, 100.0])
def test_the_bound_holds_for_the_worst_directions(dtype, scale):
    """Embeddings along what the rounding of a prototype took away, and prototypes half way between rounded numbers."""
    generator = torch.Generator().manual_seed(0)
    size = 256
    weight = torch.randn(60, size, generator=generator)
    weight[:20] = torch.randint(-100, 100, (20, size), generator=generator) + 0.5
    weight[:20, 0] = 127.0  # the step of int8 is then 1
    norm = weight.norm(dim=1, keepdim=True)
    if dtype == torch.int8:
        step = weight.abs().amax(1, keepdim=True) / 127
        lost = weight - step * (weight / step).round()
    else:
        lost = weight / norm - (8.0 / norm * weight).to(dtype).float() / 8.0
    unit = F.normalize(torch.cat([lost, -lost, weight / norm + 20 * lost]))
    excess, share = largest_excess(unit, weight, dtype, scale)
    assert excess <= 0
    assert share > (0.5 if dtype == torch.int8 else 0.15)


@pytest.mark.parametrize("dtype", TYPES)
@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 40),
    st.floats(-12.0, 12.0),
    st.floats(0.0, 6.0),
    st.integers(0, 10_000),
)
def test_no_input_breaks_the_bound(dtype, size, magnitude, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    spreads = 10 ** (spread * torch.randn(20, size, generator=generator))
    weight = (10**magnitude * torch.randn(20, size, generator=generator) * spreads).clamp(-1e17, 1e17)
    unit = F.normalize(torch.randn(10, size, generator=generator) * spreads[:10])
    assert largest_excess(unit, weight, dtype)[0] <= 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", [name for name, make in LOSSES.items() if make().alpha > 1])
def test_a_screened_step_in_float64_loses_nothing(name, loss, screens_everything):
    """With float64 prototypes, the result is that of float64, although the classes were screened in a low precision."""
    embeddings, weight, labels = batch()
    found = step(head_with(weight, LOSSES[loss](), screening=name), embeddings, labels)
    for ours, truth in zip(found, plain_step(LOSSES[loss](), embeddings, weight, labels)):
        torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)
    assert sum(screens_everything) == 301 - 32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [1.1, 1.25, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("kind", ["fresh", "clustered", "duplicates"])
def test_the_support_and_the_gradients_are_those_of_float32(name, alpha, kind, screens_everything):
    embeddings, weight, labels = problem(kind)
    loss = vm.q_margin(alpha, 20.0 / alpha**4, 0.2)
    plain = head_with(weight, loss, screening="off")
    screened = head_with(weight, loss, screening=name)
    expected, found = step(plain, embeddings, labels), step(screened, embeddings, labels)
    assert screens_everything
    assert float(screened.active_classes) == float(plain.active_classes) > 1
    assert torch.equal(found[2].any(1), expected[2].any(1))
    for ours, float32 in zip(found, expected):
        torch.testing.assert_close(ours, float32, atol=2e-6 * max(1.0, float(float32.abs().max())), rtol=1e-5)


def problem(kind, classes=2000, size=64):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, size, generator=generator)
    if kind == "clustered":
        weight = 0.3 * weight + torch.randn(20, size, generator=generator)[torch.arange(classes) % 20]
    if kind == "duplicates":  # ties at every level of the logits, the threshold's included
        weight = weight[torch.arange(classes) // 7]
    labels = torch.randint(classes, (24,), generator=generator)
    return weight[labels] + 0.8 * torch.randn(24, size, generator=generator), weight, labels


@pytest.mark.parametrize("name", NAMES)
def test_classes_on_the_edge_of_the_support(name, screens_everything):
    """Logits at the threshold tau - 1/(alpha-1), and a rounding above and below it, in float64."""
    alpha, scale, size = 2.0, 8.0, 8
    unit = torch.zeros(1, size, dtype=torch.float64)
    unit[0, 0] = 1.0
    cosines = [0.9, 0.85]  # tau = (7.2 + 6.8 + 1) / 2 = 7.5, so that the edge is at the logit 6.5
    edge = 6.5 / scale
    cosines += [edge - 1e-9, edge, edge + 1e-6, *torch.linspace(edge - 0.01, edge - 1e-7, 200).tolist()]
    cosine = torch.tensor(cosines, dtype=torch.float64)
    weight = torch.zeros(len(cosine), size, dtype=torch.float64)
    weight[:, 0], weight[:, 1] = cosine, (1 - cosine**2).sqrt()
    weight = weight[torch.arange(len(cosine)).roll(100)] * torch.linspace(0.5, 2, len(cosine))[:, None]
    head = head_with(weight, vm.MarginLoss(vm.NoMargin(), alpha, scale=scale), screening=name)
    labels = torch.tensor([100])  # the class of the cosine 0.9
    found = step(head, unit, labels)
    for ours, truth in zip(found, plain_step(head.loss, unit, weight, labels)):
        torch.testing.assert_close(ours, truth, atol=1e-12, rtol=1e-9)
    assert float(head.active_classes) == 3  # 0.9, 0.85 and the one just above the edge


@pytest.mark.parametrize("name", NAMES)
def test_a_million_classes(name, monkeypatch):
    monkeypatch.setattr(streaming, "SPARSE", 1e9)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1_000_000, 8, generator=generator)
    labels = torch.randint(len(weight), (4,), generator=generator)
    embeddings = weight[labels] + 0.1 * torch.randn(4, 8, generator=generator)
    loss = vm.q_margin(1.5, 40.0, 0.1)
    head = head_with(weight, loss, screening=name)
    found = step(head, embeddings, labels)
    for ours, truth in zip(found, plain_step(loss, embeddings.double(), weight.double(), labels)):
        torch.testing.assert_close(ours.double(), truth, atol=2e-5 * float(truth.abs().max()), rtol=1e-5)
    theta = loss.scale * F.normalize(embeddings.double()) @ F.normalize(weight.double()).T
    log_q = torch.zeros_like(theta).scatter(1, labels[:, None], -loss.scale * 0.1)
    p, _ = vm.alpha_softargmax(theta, 1.5, log_q)
    assert float(head.active_classes) == pytest.approx(float((p > 0).sum(1).double().mean()), rel=1e-3)


@pytest.mark.parametrize("name", NAMES[-1:])
def test_screening_ends_where_it_lets_too_much_pass(name, monkeypatch):
    """With almost every class active, only one chunk is screened."""
    monkeypatch.setattr(streaming, "FIRST", 32)
    monkeypatch.setattr(streaming, "chunk_size", lambda *_: 96)
    seen, above = [], screening.Screen.above
    monkeypatch.setattr(screening.Screen, "above", lambda self, *a: seen.append(a[0]) or above(self, *a))
    embeddings, weight, labels = batch(dtype=torch.float32)
    loss = vm.q_margin(1.1, 5.0, 0.2)
    step(head_with(weight, loss, screening=name), embeddings, labels)
    assert len(seen) <= 1
    expected = step(head_with(weight, loss, screening="off"), embeddings, labels)
    torch.testing.assert_close(step(head_with(weight, loss, screening=name), embeddings, labels), expected)


@pytest.mark.parametrize("name", NAMES[-1:])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_prototype_that_is_not_finite_is_refused(bad, name, screens_everything):
    embeddings, weight, labels = batch(dtype=torch.float32)
    weight[250, 3] = bad
    with pytest.raises(ValueError, match="prototype 250 of this step has norm"):
        step(head_with(weight, LOSSES["q-margin"](), screening=name), embeddings, labels)


def test_names_that_are_refused():
    with pytest.raises(ValueError, match="screening is 'int4': give one of 'auto', 'off', 'float16'"):
        vm.PrototypeHead(4, 3, LOSSES["q-margin"](), screening="int4")
    with pytest.raises(ValueError, match="'int8', but this device \\(meta\\) does not multiply it: give 'auto'"):
        screening_type("int8", torch.empty(2, 4, device="meta"), 32.0)
    with pytest.raises(ValueError, match="'int8', but the products of 140000 numbers overflow int32"):
        screening_type("int8", torch.empty(2, 140_000), 32.0)
    with pytest.raises(ValueError, match="'int8', but torch's int8 product of rows of one number is wrong"):
        screening_type("int8", torch.empty(2, 1), 32.0)
    with pytest.raises(ValueError, match="'float16', but float16 cannot hold logits with the scale 1e"):
        screening_type("float16", torch.empty(2, 4), 1e6)


@pytest.mark.parametrize("vnni", [True, False])
def test_auto_asks_the_processor(vnni, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    large = torch.empty(screening.LEAST_BATCH, 8)
    assert screening_type("auto", large, 32.0) == (torch.int8 if vnni else None)
    assert screening_type("auto", large[:-1], 32.0) is None
    assert screening_type("auto", large.double(), 32.0) is None
    assert screening_type("off", large, 32.0) is None
    assert screening_type("auto", torch.empty(512, 8, device="meta"), 32.0) is None


def test_a_processor_without_the_type_is_told(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ValueError, match="screening is 'int8', but this device \\(cpu\\) does not multiply it"):
        screening_type("int8", torch.empty(2, 4), 32.0)


@pytest.mark.parametrize("columns", [1, 2, 31, 96])
@pytest.mark.parametrize("size", [2, 3, 17, 512])
def test_torchs_int8_product_is_exact(size, columns):
    """The bound has no term for it. Rows of one number are refused, because torch multiplies them wrongly."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-127, 128, (19, size), generator=generator, dtype=torch.int8)
    right = torch.randint(-127, 128, (columns, size), generator=generator, dtype=torch.int8)
    left[0], right[0] = 127, -127
    if screening._multiplies(left.device, torch.int8):
        assert torch.equal(torch._int_mm(left, right.t()).long(), left.long() @ right.long().t())


def _screened_ranks(rank, name):
    embeddings, weight, labels = batch(16, 6000, 12)
    head = vm.PrototypeHead(
        12, 6000, vm.q_margin(1.5, 15.0, 0.2), process_group=torch.distributed.group.WORLD, screening=name
    ).double()
    head.weight.data.copy_(weight[head.shard.start : head.shard.start + head.shard.size])
    own = slice(rank * 8, rank * 8 + 8)
    return step(head, embeddings[own], labels[own])


@pytest.mark.parametrize("name", NAMES[-1:])
def test_classes_on_two_ranks(name):
    embeddings, weight, labels = batch(16, 6000, 12)
    loss, grad, grad_weight = plain_step(vm.q_margin(1.5, 15.0, 0.2), embeddings, weight, labels)
    results = on_ranks(2, _screened_ranks, name)
    for rank_loss, *_ in results:
        torch.testing.assert_close(rank_loss, loss)
    torch.testing.assert_close(torch.cat([part for _, part, _ in results]) / 2, grad)  # see process_group
    torch.testing.assert_close(torch.cat([part for *_, part in results]), grad_weight)


@pytest.mark.parametrize("name", NAMES[-1:])
def test_compiled_equals_eager(name, screens_everything):
    """torch.compile could not trace the sparse product of the candidates."""
    embeddings, weight, labels = batch(6, 301, 8)
    head = head_with(weight, LOSSES["q-margin"](), screening=name)
    compiled = torch.compile(lambda e: head(e, labels), backend="aot_eager")
    e = embeddings.clone().requires_grad_()
    gradients = torch.autograd.grad(compiled(e), (e, head.weight))
    torch.testing.assert_close(gradients, plain_step(LOSSES["q-margin"](), embeddings, weight, labels)[1:])
    assert screens_everything
