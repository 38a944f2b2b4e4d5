import numpy as np
import pytest
import reference
import torch
from verimargin._sharding import Shard
from verimargin.head.threshold import Candidates, Threshold, joined


def test_candidates_above_each_rows_bound():
    listed = Candidates(torch.tensor([0, 0, 1, 1]), torch.tensor([3, 4, 3, 9]), torch.tensor([1.0, 2.0, 1.0, 2.5]))
    kept = listed.above(torch.tensor([1.0, 2.0]))
    assert (kept.row.tolist(), kept.column.tolist(), kept.logit.tolist()) == ([0, 1], [4, 9], [2.0, 2.5])
    assert (len(listed), len(kept)) == (4, 2)


def test_joined_lists_keep_their_order():
    first = Candidates(torch.tensor([0]), torch.tensor([3]), torch.tensor([1.0]))
    second = Candidates(torch.tensor([1, 0]), torch.tensor([4, 9]), torch.tensor([2.0, 3.0]))
    both = joined([first, second])
    assert (both.row.tolist(), both.column.tolist(), both.logit.tolist()) == ([0, 1, 0], [3, 4, 9], [1.0, 2.0, 3.0])


class OneTarget:
    """What `Threshold` asks of a target."""

    def __init__(self, logit, log_q):
        self.logit, self.log_q = logit, log_q


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2.0, 3.0])
def test_threshold_and_probabilities_by_the_reference(alpha):
    generator = torch.Generator().manual_seed(0)
    theta = 2.0 * torch.randn(4, 30, generator=generator, dtype=torch.float64)
    log_q = torch.tensor([-1.0, 0.0, -3.0, 0.5], dtype=torch.float64)
    row, column = (i.flatten() for i in torch.meshgrid(torch.arange(4), torch.arange(1, 30), indexing="ij"))
    lower = torch.maximum(theta[:, 1:].amax(1), theta[:, 0] + (1 - torch.exp((1 - alpha) * log_q)) / (alpha - 1))
    equation = Threshold(Candidates(row, column, theta[row, column]), OneTarget(theta[:, 0], log_q), lower, alpha)
    shard = Shard(30, None)
    delta = equation.solve(shard)
    p, p_y = equation.probabilities(delta, shard)
    for i, (logits, q) in enumerate(zip(theta.numpy(), log_q.tolist())):
        expected, tau = reference.softargmax(logits, alpha, np.array([q] + 29 * [0.0]))
        assert float(lower[i] + delta[i]) == pytest.approx(tau, abs=1e-9)
        np.testing.assert_allclose(p[row == i].numpy(), expected[1:], atol=1e-9)
        assert float(p_y[i]) == pytest.approx(expected[0], abs=1e-9)
