import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from small_head import batch
from verimargin._sharding import Shard
from verimargin.head import streaming
from verimargin.head.gradient_memory import GradientMemory
from verimargin.head.product import GROUP
from verimargin.head.step import Step
from verimargin.head.streaming import stream
from verimargin.head.target import Target
from verimargin.head.threshold import Threshold
from verimargin.losses.divergence import q_logarithm

SCALE = 8.0


@pytest.mark.parametrize("column", [[0, 2, 4], [-1, 5, 9], [4, -1, 0]])
def test_the_highest_other_logit(column):
    """The target's own entry does not count where it is among the columns, and the logits stay as they were."""
    logit = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 8.0, 3.0, 7.0], [-5.0, -4.0, -3.0, -2.0, -1.0]])
    before = logit.clone()
    expected = [max(v for c, v in enumerate(row) if c != y) for row, y in zip(logit.tolist(), column)]
    assert streaming._highest_other(logit, torch.tensor(column)).tolist() == expected
    assert torch.equal(logit, before)


def streamed(embeddings, weight, labels, alpha):
    """What `stream` finds, with the bound that the target alone gives; the step and the target too."""
    unit, loss = torch.nn.functional.normalize(embeddings), vm.q_margin(alpha, SCALE, 0.2)
    step = Step(labels, labels, loss, Shard(len(weight), None), GradientMemory())
    target = Target(unit, weight, step, False)
    lower = target.logit + q_logarithm(target.log_q, alpha)
    return *stream(unit, weight, target, lower, step), target, step


def by_reference(embeddings, weight, labels, alpha):
    """p and tau of each row."""
    theta = SCALE * reference.cosines(embeddings.double().numpy(), weight.double().numpy())
    log_q = np.zeros_like(theta)
    log_q[np.arange(len(labels)), labels] = -SCALE * 0.2
    p, tau = zip(*(reference.softargmax(row, alpha, q) for row, q in zip(theta, log_q)))
    return np.stack(p), np.array(tau), theta


@pytest.mark.parametrize("chunk", [7, 64, 100, 128, 10_000])
@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_the_support_is_exact_whatever_the_chunks(alpha, chunk, monkeypatch):
    monkeypatch.setattr(streaming, "chunk_size", lambda *_: chunk)
    embeddings, weight, labels = batch(9, 517, 10)
    found, lower, norm, target, step = streamed(embeddings, weight, labels, alpha)
    p, tau, theta = by_reference(embeddings, weight, labels, alpha)
    assert (lower.numpy() <= tau + 1e-9).all()
    torch.testing.assert_close(norm, weight.norm(dim=1))
    listed = np.zeros_like(p)
    listed[found.row, found.column] = found.logit
    assert len(found) == len(set(zip(found.row.tolist(), found.column.tolist())))  # none comes twice
    assert not listed[np.arange(9), labels].any()  # the targets are known apart
    np.testing.assert_allclose(listed[listed != 0], theta[listed != 0], atol=1e-12)
    others = p.copy()
    others[np.arange(9), labels] = 0
    assert (listed[others > 0] != 0).all()
    threshold = Threshold(found, target, lower, alpha)
    delta = threshold.solve(step.shard)
    np.testing.assert_allclose((lower + delta).numpy(), tau, atol=1e-9)
    candidates, p_y = threshold.probabilities(delta, step.shard)
    dense = torch.zeros(9, 517, dtype=torch.float64)
    dense[found.row, found.column] = candidates
    np.testing.assert_allclose(dense.numpy(), others, atol=1e-9)
    np.testing.assert_allclose(p_y.numpy(), p[np.arange(9), labels], atol=1e-9)


def test_the_list_is_pruned_on_the_way(monkeypatch):
    """Classes sorted from the farthest to the nearest: each chunk raises the bound, and most of the list falls."""
    monkeypatch.setattr(streaming, "chunk_size", lambda *_: 64)
    embeddings, weight, _ = batch(1, 2048, 10)
    weight = weight[torch.nn.functional.cosine_similarity(weight, embeddings).argsort()]
    solved, solve = [], Threshold.solve
    monkeypatch.setattr(Threshold, "solve", lambda self, shard: solved.append(len(self.row)) or solve(self, shard))
    found, lower, *_ = streamed(embeddings, weight, torch.tensor([0]), 2.0)
    p, tau, _ = by_reference(embeddings, weight, [0], 2.0)
    assert len(solved) >= 3
    assert max(solved) < 2048 / 4
    assert float(lower) <= tau[0] + 1e-9
    assert set(np.flatnonzero(p[0])) - {0} <= set(found.column.tolist())


def test_a_prototype_that_is_nan_is_refused():
    embeddings, weight, labels = batch(3, 200, 10)
    weight[150] = torch.nan
    with pytest.raises(ValueError, match="prototype 150 of this step has norm nan"):
        streamed(embeddings, weight, labels, 1.5)


@pytest.mark.parametrize(("samples", "size"), [(1, 4096), (128, 4096), (300, 3488), (512, 2048), (4096, 2048)])
def test_the_size_of_a_chunk(samples, size):
    assert streaming.chunk_size(samples, torch.device("cpu")) == size
    on_gpu = streaming.chunk_size(samples, torch.device("cuda"))
    assert on_gpu % GROUP == 0
    assert on_gpu == 4096 or samples * on_gpu <= 2**24
