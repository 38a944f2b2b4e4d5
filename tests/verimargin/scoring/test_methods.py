import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from small_ida import LEFT, RIGHT, A, F, N, expected, fitted
from verimargin.scoring import methods
from verimargin.scoring.score_norm import ScoreNorm


def cosines():
    unit = F / F.norm(dim=1, keepdim=True)
    return (unit[LEFT] * unit[RIGHT]).sum(1)


def test_scores_of_trials_equal_the_formulas_of_each_method():
    norm, adaptive = ScoreNorm(A), ScoreNorm(A, 9)
    listed = [
        methods.COSINE,
        methods.score_norm(norm),
        methods.score_norm(adaptive),
        methods.ida(vm.IDAScorer(A, 5, 2.0)),
    ]
    scores = methods.score_trials(listed, F, LEFT, RIGHT)
    assert list(scores) == ["cosine", "s-norm", "adaptive-s-norm", "ida-r"]
    for max_bytes in (1, 128 * 40, 2**30):  # 1 trial, 40, and all at once
        blocks = methods.score_trials(listed, F, LEFT.int(), RIGHT.int(), max_bytes=max_bytes)
        for name, values in scores.items():
            torch.testing.assert_close(blocks[name], values)
    torch.testing.assert_close(scores["cosine"], cosines())
    for name, size in (("s-norm", None), ("adaptive-s-norm", 9)):
        each = [reference.score_norm(F[a], F[b], A, "s-norm", size) for a, b in zip(LEFT[:20], RIGHT[:20])]
        np.testing.assert_allclose(scores[name][:20], each, rtol=1e-9)
    np.testing.assert_allclose(scores["ida-r"], np.log(expected(5, 2.0)[1]), rtol=1e-9)


def test_methods_are_named_by_what_they_are():
    named = [
        methods.COSINE,
        methods.score_norm(ScoreNorm(A)),
        methods.score_norm(ScoreNorm(A, 9)),
        methods.score_norm(ScoreNorm(A, kind="z-norm")),
        methods.ida(vm.IDAScorer(A, 5, 2.5)),
        methods.ida(fitted(), "ida-l", "IDA-L"),
    ]
    assert [(method.name, method.title) for method in named] == [
        ("cosine", "cosine"),
        ("s-norm", "s-norm"),
        ("adaptive-s-norm", "adaptive s-norm (9)"),
        ("z-norm", "z-norm"),
        ("ida-r", "IDA-R (k 5, tau 2.5)"),
        ("ida-l", "IDA-L (k 4, tau 1.5)"),
    ]


def test_ida_sorts_as_dao_does_with_a_regressor_too():
    regressor = fitted()
    scores = methods.score_trials([methods.ida(regressor, "ida-l")], F.float(), LEFT, RIGHT)["ida-l"]
    torch.testing.assert_close(scores, regressor.score_pairs(F.float(), LEFT, RIGHT, log=True))


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_statistics_are_once_per_embedding_and_shown_in_steps(size, monkeypatch):
    monkeypatch.setattr(methods, "ROWS", size)
    method, shown, seen = methods.ida(vm.IDAScorer(A, 5)), [], []
    counted = method._replace(statistics=lambda f: seen.append(len(f)) or method.statistics(f))

    def progress(steps, title):
        shown.append((title, len(steps)))
        return steps

    scores = methods.score_trials([counted], F, LEFT, RIGHT, progress)["ida-r"]
    assert shown == [("IDA-R (k 5, tau 1)", -(-N // size))]
    assert sum(seen) == N
    np.testing.assert_allclose(scores, np.log(expected(5, 1.0)[1]), rtol=1e-9)
    (log_density,) = methods.statistics(method, F)
    np.testing.assert_allclose(log_density, np.log(expected(5, 1.0)[0]), rtol=1e-9)
