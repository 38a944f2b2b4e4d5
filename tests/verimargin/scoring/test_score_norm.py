import numpy as np
import pytest
import reference
import torch
from verimargin.scoring import neighbours
from verimargin.scoring.score_norm import ScoreNorm


def problem(n, cohort, d, dtype=torch.float32):
    """Speakers and impostors with structure, so that neighbourhoods differ, of any length."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(5, d, generator=draw, dtype=dtype)
    rows = centres[torch.arange(n + cohort) % 5] + torch.randn(n + cohort, d, generator=draw, dtype=dtype)
    rows *= torch.rand(n + cohort, 1, generator=draw, dtype=dtype) * 10 + 0.1
    return rows[:n], rows[n:], torch.randint(n, (2, 12), generator=draw)


@pytest.mark.parametrize("kind", ["s-norm", "z-norm", "t-norm"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "cohort_size"),
    [(torch.float32, 1e-5, size) for size in (None, 7, 61)] + [(torch.float64, 1e-11, size) for size in (None, 2, 7)],
)
@pytest.mark.parametrize("max_bytes", [1, 3000, 2**26])
def test_equals_the_trial_by_trial_formula(kind, cohort_size, dtype, tolerance, max_bytes, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 19)
    f, cohort, (i, j) = problem(23, 61, 12, dtype)
    scores = ScoreNorm(cohort, cohort_size, kind, max_bytes).score_pairs(f, i, j)
    expected = [reference.score_norm(f[a], f[b], cohort, kind, cohort_size) for a, b in zip(i, j)]
    np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=tolerance)


def test_arrays_are_taken_as_tensors_are():
    f, cohort, (i, j) = problem(23, 61, 12)
    scores = ScoreNorm(cohort.numpy(), 9).score_pairs(f.numpy(), i.numpy(), j.numpy())
    assert torch.equal(scores, ScoreNorm(cohort, 9).score_pairs(f, i, j))


def test_a_cohort_of_copies_gives_finite_scores():
    f, cohort, (i, j) = problem(8, 6, 5)
    for norm in (ScoreNorm(cohort[:1].repeat(6, 1)), ScoreNorm(cohort.repeat(6, 1), 4)):
        assert (norm.statistics(f)[1] == 1e-4).all()
        assert torch.isfinite(norm.score_pairs(f, i, j)).all()


def test_half_precision_embeddings_are_computed_in_float32():
    f, cohort, (i, j) = problem(23, 61, 12)
    norm = ScoreNorm(cohort, 9)
    scores = norm.score_pairs(f.half(), i, j)
    torch.testing.assert_close(scores, norm.score_pairs(f.half().float(), i, j))
    assert scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, c: ScoreNorm(c[:1]), r"the cohort has shape \(1, 4\): give .* at least two"),
        (lambda f, c: ScoreNorm(c, 10), "cohort_size is 10, of 9 impostors: give 2..9"),
        (lambda f, c: ScoreNorm(c, 1), "cohort_size is 1, of 9"),
        (lambda f, c: ScoreNorm(c, kind="as-norm"), "kind is 'as-norm': give one of s-norm"),
        (lambda f, c: ScoreNorm(c, max_bytes=0), "max_bytes is 0"),
        (lambda f, c: ScoreNorm(c.index_fill(0, torch.tensor([3]), 0.0)), "impostor 3 has norm 0"),
        (lambda f, c: ScoreNorm(c).statistics(f[:, :3]), r"embeddings have shape \(6, 3\): give \(embeddings, 4\)"),
        (lambda f, c: ScoreNorm(c).statistics(f.index_fill(0, torch.tensor([2]), torch.nan)), "sample 2 has norm nan"),
    ],
)
def test_bad_input_is_named(call, message):
    f, cohort, _ = problem(6, 9, 4)
    with pytest.raises(ValueError, match=message):
        call(f, cohort)


@pytest.mark.parametrize("cohort_size", [None, 30])
def test_cosines_with_the_cohort_exist_in_blocks(cohort_size):
    f, cohort, _ = problem(400, 5000, 12)
    norm, largest = ScoreNorm(cohort, cohort_size, max_bytes=2**18), [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.shape[1] > 12:
                    largest.append(tensor.nbytes)
            return out

    with Watch():
        norm.statistics(f)
    assert max(largest) <= 2**18
    assert (max(largest) > 2**17) == (cohort_size is not None)
