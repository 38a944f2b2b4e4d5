import numpy as np
import pytest
import torch
from verimargin.scoring import identification
from verimargin.scoring import methods as scoring
from verimargin.scoring.ida import IDAScorer
from verimargin.scoring.identification import rank1
from verimargin.scoring.score_norm import ScoreNorm

FIRST, SECOND = torch.tensor([[0], [1]])


def problem():
    draw = torch.Generator().manual_seed(0)
    identity = np.array([4, 0, 4, 1, 0, 4, 7, 0])
    voices = torch.randn(8, 6, generator=draw)
    probes = voices[identity] + 0.7 * torch.randn(8, 6, generator=draw)
    return probes, identity, torch.randn(50, 6, generator=draw), torch.randn(30, 6, generator=draw)


@pytest.mark.parametrize("method", ["cosine", "s-norm", "IDA-R"])
@pytest.mark.parametrize("max_bytes", [1, 2**26])
def test_equals_the_naive_protocol(method, max_bytes, monkeypatch):
    monkeypatch.setattr(identification, "GALLERY_BLOCK", 7)
    probes, identity, distractors, others = problem()
    norm, scorer = ScoreNorm(others), IDAScorer(others, k=4, tau=3.0)
    score, of = {
        "cosine": (lambda a, b: torch.nn.functional.cosine_similarity(a, b), scoring.COSINE),
        "s-norm": (lambda a, b: torch.cat([norm.score_pairs(torch.stack(p), FIRST, SECOND) for p in zip(a, b)]),
                   scoring.score_norm(norm)),
        "IDA-R": (scorer.score, scoring.ida(scorer)),
    }[method]  # fmt: skip
    sizes, expected = [1, 5, 20], []
    pairs = [(p, m) for p in range(8) for m in range(8) if p != m and identity[p] == identity[m]]
    for n in sizes:
        hits = []
        for p, m in pairs:
            gallery = torch.cat([probes[m : m + 1], distractors[:n]])
            mate, *others_of_gallery = score(probes[p].expand(n + 1, -1), gallery).tolist()
            hits.append(mate > max(others_of_gallery))
        expected.append(sum(hits) / len(hits))
    assert len(set(expected)) > 2
    assert rank1(of, probes, identity, distractors, sizes, max_bytes) == pytest.approx(expected)


def test_a_tie_is_a_miss():
    axes = torch.eye(3)
    probes = torch.stack([axes[0], axes[0] + axes[1]])
    twin = probes[1:]
    assert rank1(scoring.COSINE, probes, np.array([0, 0]), torch.cat([axes[2:], twin]), [1, 2]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": np.arange(8)}, "no identity has two embeddings"),
        ({"sizes": [5, 5]}, r"the sizes are \[5, 5\]: give increasing numbers, up to that of the 50 distractors"),
        ({"sizes": [51]}, "the 50 distractors"),
        ({"sizes": []}, r"the sizes are \[\]"),
        ({"distractors": torch.ones(50, 4)}, "probes have 6 numbers, distractors 4"),
    ],
)
def test_bad_input_is_named(change, message):
    probes, identity, distractors, _ = problem()
    given = {"probes": probes, "identity": identity, "distractors": distractors, "sizes": [5]} | change
    with pytest.raises(ValueError, match=message):
        rank1(scoring.COSINE, **given)
