import numpy as np
import torch
from small_drawn_faces import read_faces, small_corpus, trained
from verimargin_insightface.drawn_faces import scoring
from verimargin_insightface.drawn_faces.training import embed


def unit(rows):
    rows = rows.detach().double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_scores_are_those_of_the_formulas(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "K", 3)
    folder = small_corpus(tmp_path / "faces")
    train, test = read_faces(folder / "train"), read_faces(folder / "test")
    run = trained(tmp_path / "run", train, "qmargin")
    i, j = np.triu_indices(len(test.labels), 1)
    found = scoring.score(run, test, i, j, lambda steps, title: steps)
    f, anchors = unit(embed(run.backbone, test.images)), unit(run.head.weight)
    cosine = (f @ f.T)[i, j]
    density = 1 / np.exp(np.sort(f @ anchors.T)[:, -3:]).sum(1)
    np.testing.assert_allclose(found["cosine"], cosine, atol=1e-5)
    np.testing.assert_allclose(found["ida-r"], np.log(np.exp(cosine) * (density[i] + density[j])), atol=1e-4)
    known = unit(embed(run.backbone, train.images))
    cohorts = found["s-norm"], found["ida-l"]
    assert all(np.isfinite(scores).all() and scores.shape == i.shape for scores in cohorts)
    one = [known[train.labels == person] for person in range(len(train.names))]
    assert all(len(rows) > 1 for rows in one)
    again = scoring.score(run, test, i, j, lambda steps, title: steps)
    assert all((found[name] == again[name]).all() for name in found)


def test_the_regressor_learns_densities_without_the_own_anchor(tmp_path, monkeypatch):
    seen = {}

    class Regressor(scoring.vm.SupportSetRegressor):
        def fit(self, embeddings, densities, **options):
            seen.update(f=embeddings, density=densities)
            return super().fit(embeddings, densities, **options)

    monkeypatch.setattr(scoring, "K", 3)
    monkeypatch.setattr(scoring.vm, "SupportSetRegressor", Regressor)
    folder = small_corpus(tmp_path / "faces")
    train, test = read_faces(folder / "train"), read_faces(folder / "test")
    run = trained(tmp_path / "run", train, "arcface")
    scoring.score(run, test, np.array([0]), np.array([1]), lambda steps, title: steps)
    cosine = unit(seen["f"]) @ unit(run.head.weight).T
    cosine[np.arange(len(cosine)), train.labels] = -np.inf
    expected = 1 / np.exp(np.sort(cosine)[:, -3:]).sum(1)
    np.testing.assert_allclose(torch.as_tensor(seen["density"]).numpy(), expected, rtol=1e-4)
