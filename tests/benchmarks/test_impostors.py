import impostors
import numpy as np
import pytest
import torch
import verimargin as vm
from impostors import scores, tar_at_far
from torch.nn import functional as F

FARS = (0.05, 0.01, 1e-3)
N, P = 50, 3


def samples(ties=False):
    torch.manual_seed(0)
    mean = torch.randn(N, 8)
    x = F.normalize(mean + 0.5 * torch.randn(1 + P, N, 8), dim=-1)
    if ties:
        x = F.normalize((2 * x).round() + 1e-9, dim=-1)
    return x[0], x[1:]


def all_scores(enrolled, probes, similarity=None):
    """Positive and negative scores with their two identities, pair by pair."""
    pairs = {True: [], False: []}
    for p in range(P):
        table = probes[p] @ enrolled.T if similarity is None else similarity(p)
        for i in range(N):
            for j in range(N):
                pairs[i == j].append((float(table[i, j]), i, j))
    return (np.array(pairs[same]) for same in (True, False))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1_000, None])
def test_the_low_rates_are_those_of_all_pairs(monkeypatch, ties, count):
    monkeypatch.setattr(impostors, "ROWS", 7)
    enrolled, probes = samples(ties)
    found = scores(enrolled, probes, count)
    positive, negative = all_scores(enrolled, probes)
    assert found.pairs == len(negative)
    assert len(found.impostor) == (count or len(negative))
    kept = np.arange(N) % 10 != 3
    remain = [s[kept[s[:, 1].astype(int)] & kept[s[:, 2].astype(int)], 0] for s in (positive, negative)]
    for far in FARS:
        assert tar_at_far(found.curve(), far) == vm.metrics.tar_at_far(positive[:, 0], negative[:, 0], far=far)[0]
        assert tar_at_far(found.curve(kept), far) == vm.metrics.tar_at_far(*remain, far=far)[0]
    if count is None:
        assert found.curve().eer() == vm.metrics.eer(positive[:, 0], negative[:, 0])


def test_ida_scores_are_those_of_the_scorer():
    enrolled, probes = samples()
    scorer = vm.IDAScorer(torch.randn(40, 8))
    found = scores(enrolled, probes, 1_000, (scorer.log_density(enrolled), scorer.log_density(probes)))

    def similarity(p):
        f1, f2 = probes[p][:, None].expand(N, N, 8), enrolled.expand(N, N, 8)
        return scorer.score(f1, f2, log=True)

    positive, negative = all_scores(enrolled, probes, similarity)
    for far in FARS:
        wanted = vm.metrics.tar_at_far(positive[:, 0], negative[:, 0], far=far)[0]
        assert tar_at_far(found.curve(), far) == pytest.approx(wanted, abs=1e-12)


def test_a_rate_below_which_scores_are_missing_is_refused():
    found = scores(*samples(), count=100)
    assert tar_at_far(found.curve(), 0.005) > 0
    with pytest.raises(ValueError, match=r"do not reach a FAR of 0\.05"):
        tar_at_far(found.curve(), 0.05)
