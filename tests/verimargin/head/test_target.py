import pytest
import reference
import torch
import verimargin as vm
from distributed import on_ranks
from small_head import batch
from torch.nn.functional import normalize
from verimargin._sharding import Shard
from verimargin.head.gradient_memory import GradientMemory
from verimargin.head.step import Step
from verimargin.head.target import Target

MARGINS = [vm.NoMargin(), vm.CosMargin(0.3), vm.ArcMargin(0.4), vm.QMargin(0.2)]


def target_of(margin, unit, weight, label, scale=9.0, differentiate=True, column=None, shard=None, norms=None):
    loss = vm.MarginLoss(margin, 1.5, scale=scale)
    shard = shard or Shard(len(weight), None)
    step = Step(label, label if column is None else column, loss, shard, GradientMemory(), norms=norms)
    return Target(unit, weight, step, differentiate)


@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: type(margin).__name__)
def test_logits_and_log_q_are_those_of_the_table_and_the_slope_is_the_derivative(margin):
    embeddings, weight, labels = batch(11, 60, 7)
    unit = normalize(embeddings)
    target = target_of(margin, unit, weight, labels)
    cosine = (unit * normalize(weight)[labels]).sum(1).requires_grad_()
    expected = [reference.margin(type(margin).__name__, c, margin.m, 9.0) for c in cosine.tolist()]
    torch.testing.assert_close(target.logit, torch.tensor([logit for logit, _ in expected], dtype=torch.float64))
    torch.testing.assert_close(target.log_q, torch.tensor([log_q for _, log_q in expected], dtype=torch.float64))
    logit, _ = margin(cosine, labels, 9.0)
    torch.testing.assert_close(target.slope, *torch.autograd.grad(logit.sum(), cosine))
    assert not any(part.requires_grad for part in (target.logit, target.log_q, target.slope))
    assert target.owned.all()


def test_each_class_has_its_own_factor_by_its_global_id():
    """The columns are places among the prototypes of the step, the labels are global."""
    embeddings, weight, _ = batch(4, 6, 7)
    label, column = torch.tensor([2, 5, 5, 3]), torch.tensor([0, 2, 2, 1])
    margin = vm.QMargin(0.5, psi=torch.linspace(0, 1, 6, dtype=torch.float64))
    target = target_of(margin, normalize(embeddings), weight[[2, 3, 5]], label, column=column)
    torch.testing.assert_close(target.log_q, -9.0 * 0.5 * margin.psi[label])
    torch.testing.assert_close(target.logit, 9.0 * (normalize(embeddings) * normalize(weight)[label]).sum(1))


def test_each_sample_has_its_own_quality():
    embeddings, weight, labels = batch(4, 60, 7)
    norms, quality = torch.tensor([1.0, 20.0, 60.0, 99.0], dtype=torch.float64), reference.Quality(0.5, h=2.0)
    margin = vm.QMargin(0.2, quality=vm.Quality(0.5, h=2.0))
    target = target_of(margin, normalize(embeddings), weight, labels, norms=norms)
    assert target.log_q.tolist() == pytest.approx((-9.0 * 0.2 * (1.0 + quality.of(norms))).tolist(), rel=1e-6)
    assert (margin.quality.mean, margin.quality.std) == (20.0, 100.0), "the target entries change no averages"


def test_without_a_gradient_there_is_no_slope():
    embeddings, weight, labels = batch(5, 9, 7)
    for differentiate in (True, False):
        target = target_of(vm.ArcMargin(0.4), normalize(embeddings), weight, labels, differentiate=differentiate)
        assert bool(target.slope.any()) == differentiate
        with torch.no_grad():
            other = target_of(vm.ArcMargin(0.4), normalize(embeddings), weight, labels, differentiate=differentiate)
        torch.testing.assert_close((other.logit, other.slope), (target.logit, target.slope))


def test_a_dead_prototype_and_rounding_past_one():
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    unit = torch.tensor([[1.0, 0.0], [0.6000001, 0.8000001]])
    target = target_of(vm.NoMargin(), unit, weight, torch.tensor([0, 1]))
    assert target.logit.tolist() == [0.0, 9.0]


def _target_on(rank):
    embeddings, weight, labels = batch(6, 7, 5)
    shard = Shard(7, torch.distributed.group.WORLD)
    column = labels - shard.start
    column = torch.where((column >= 0) & (column < shard.size), column, -1)
    mine = weight[shard.start : shard.start + shard.size]
    target = target_of(vm.QMargin(0.2), normalize(embeddings), mine, labels, column=column, shard=shard)
    return target.owned, target.logit, target.log_q


def test_every_rank_knows_the_targets_of_all():
    embeddings, weight, labels = batch(6, 7, 5)
    alone = target_of(vm.QMargin(0.2), normalize(embeddings), weight, labels)
    (owned, *first), (owned_by_other, *second) = on_ranks(2, _target_on)
    assert owned.tolist() == (labels < 4).tolist()
    assert owned_by_other.tolist() == (labels >= 4).tolist()
    torch.testing.assert_close(first, [alone.logit, alone.log_q])
    torch.testing.assert_close(second, [alone.logit, alone.log_q])
