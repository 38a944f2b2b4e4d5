import numpy as np
import pytest
import torch
from torch.nn import functional as F
from verimargin.commands import demo_scores
from verimargin.commands.demo_scores import METHODS, Cost, Trials, four_scores, read_run, save_run, step_cost
from verimargin.files.embeddings import save_npz


def silent(steps, title):
    return steps


def unit(rows):
    rows = rows.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def embeddings():
    """Prototypes of 15 classes, 4 training embeddings for each, and 9 test embeddings."""
    draw = torch.Generator().manual_seed(0)
    prototypes = torch.randn(15, 8, generator=draw)
    labels = torch.arange(15).repeat(4)
    known = prototypes[labels] + 0.3 * torch.randn(60, 8, generator=draw)
    return prototypes, known, labels, torch.randn(9, 8, generator=draw)


def test_scores_are_those_of_the_formulas(embeddings):
    prototypes, known, labels, f = embeddings
    found = four_scores(prototypes, known, labels, f, 0, silent)
    i, j = np.triu_indices(9, 1)
    cosine = (unit(f) @ unit(f).T)[i, j]
    density = 1 / np.exp(np.sort(unit(f) @ unit(prototypes).T)[:, -10:]).sum(1)
    np.testing.assert_allclose(found["cosine"], cosine, atol=1e-5)
    np.testing.assert_allclose(found["ida-r"], np.log(np.exp(cosine) * (density[i] + density[j])), atol=1e-4)
    assert list(found) == list(METHODS)
    assert all(np.isfinite(scores).all() and scores.shape == i.shape for scores in found.values())
    again = four_scores(prototypes, known, labels, f, 0, silent)
    assert all((found[name] == again[name]).all() for name in found)


def test_the_cohort_is_one_training_embedding_of_each_class(embeddings, monkeypatch):
    prototypes, known, labels, f = embeddings
    cohorts = []

    class Norm(demo_scores.ScoreNorm):
        def __init__(self, cohort):
            cohorts.append(cohort)
            super().__init__(cohort)

    monkeypatch.setattr(demo_scores, "ScoreNorm", Norm)
    found = four_scores(prototypes, known, labels, f, 3, silent)["s-norm"]
    (cohort,) = cohorts
    cosine = unit(cohort) @ unit(known).T
    assert sorted(labels[cosine.argmax(1)].tolist()) == list(range(15))
    assert cosine.max(1) == pytest.approx(1)
    against = unit(f) @ unit(cohort).T
    mean, std = against.mean(1), against.std(1)
    i, j = np.triu_indices(9, 1)
    raw = (unit(f) @ unit(f).T)[i, j]
    expected = ((raw - mean[i]) / std[i] + (raw - mean[j]) / std[j]) / 2
    ratio = found / expected  # the std may be the unbiased one
    assert ratio == pytest.approx(ratio[0], rel=1e-4)
    assert ratio[0] == pytest.approx(1, rel=0.05)


def test_the_regressor_learns_densities_without_the_own_anchor(embeddings, monkeypatch):
    prototypes, known, labels, f = embeddings
    seen = {}

    class Regressor(demo_scores.SupportSetRegressor):
        def fit(self, embeddings, densities, **options):
            seen.update(f=embeddings, density=densities)
            return super().fit(embeddings, densities, **options)

    monkeypatch.setattr(demo_scores, "SupportSetRegressor", Regressor)
    four_scores(prototypes, known, labels, f, 0, silent)
    cosine = unit(seen["f"]) @ unit(prototypes).T
    cosine[np.arange(len(cosine)), labels.numpy()] = -np.inf
    expected = 1 / np.exp(np.sort(cosine)[:, -10:]).sum(1)
    np.testing.assert_allclose(torch.as_tensor(seen["density"]).numpy(), expected, rtol=1e-4)


def test_of_few_classes_all_others_are_the_support_set(embeddings):
    prototypes, known, labels, f = embeddings
    few = labels < 4
    found = four_scores(prototypes[:4], known[few], labels[few], f, 0, silent)
    density = 1 / np.exp(np.sort(unit(f) @ unit(prototypes[:4]).T)[:, -3:]).sum(1)
    i, j = np.triu_indices(9, 1)
    np.testing.assert_allclose(np.exp(found["ida-r"] - found["cosine"]), density[i] + density[j], rtol=1e-4)


def test_all_pairs_of_samples_with_their_identities_and_names():
    trials = Trials.all_pairs(np.array([0, 0, 1]), ["a", "b", "c"], ["A", "B"])
    assert trials.same.tolist() == [True, False, False]
    assert [side.tolist() for side in trials.identities] == [[0, 0, 0], [0, 1, 1]]
    assert [trials.pair(k) for k in range(3)] == ["a, b", "a, c", "b, c"]


def test_what_a_loss_takes_is_measured_without_the_weights():
    weight = torch.randn(50, 16, requires_grad=True)

    def cost(batch):
        rows, labels = torch.randn(batch, 16), torch.zeros(batch, dtype=torch.long)
        return step_cost(lambda: F.cross_entropy(F.linear(rows, weight), labels), [weight], repeats=2)

    small, large = cost(16), cost(64)
    assert small.seconds > 0
    one_row = (large.kept - small.kept) / 48
    assert 4 * (16 + 50) <= one_row <= 4 * (16 + 3 * 50) + 16  # an embedding, and log-probabilities of all classes
    assert weight.grad is None


def test_results_of_a_run_are_read_again_and_damage_is_named(tmp_path):
    path, scores = tmp_path / "scores.npz", {name: np.full(3, n, np.float32) for n, name in enumerate(METHODS)}
    save_run(path, scores, 0.5, Cost(0.25, 100))
    run = read_run(path, "ArcFace")
    assert (run.title, run.step_seconds, run.cost) == ("ArcFace", 0.5, Cost(0.25, 100))
    assert {name: values.tolist() for name, values in run.scores.items()} == {n: v.tolist() for n, v in scores.items()}
    save_npz(path, cosine=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"scores\.npz is damaged or of an older version: remove it"):
        read_run(path, "ArcFace")
