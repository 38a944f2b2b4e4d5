import numpy as np
import pytest
import torch
import verimargin as vm
from small_faces import SIZE, people, recognition_model
from verimargin.files.calibrations import CalibratedMethod, Calibrations, FarThreshold, write_calibrations
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.scorers import write_regressor
from verimargin.scoring.calibration import Calibration
from verimargin_insightface import FaceScorer
from verimargin_insightface.face_encoder import FaceEncoder

pytest.importorskip("insightface", reason="pip install --no-deps insightface")

STRANGERS = [f"stranger{n}" for n in range(12)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("faces")
    people(home / "strangers", STRANGERS, images=3)
    people(home / "people", ["ann", "bob", "eve"], images=3, seed=1)
    return home


@pytest.fixture(scope="module")
def model(home):
    return recognition_model(home / "model.onnx")


def unit(encoder, paths):
    rows = np.stack([encoder(path).numpy() for path in paths]).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(method, anchors, e, t, k=3, tau=2.0):
    """The score of two unit embeddings, from the formulas in float64."""
    cosine = e @ t
    if method == "s-norm":
        cohort = [anchors @ side for side in (e, t)]
        return np.mean([(cosine - c.mean()) / c.std(ddof=1) for c in cohort])
    density = [1 / np.exp(tau * np.sort(anchors @ side)[-k:]).sum() for side in (e, t)]
    return np.log(np.exp(tau * cosine) * sum(density))


@pytest.mark.parametrize("method", ["ida", "s-norm"])
def test_scores_are_those_of_the_formulas(home, model, method):
    scorer = FaceScorer(model, home / "strangers", method, k=3, tau=2.0)
    taken = scorer.encoder.folder(home / "strangers", per_identity=1)
    anchors = unit(scorer.encoder, [home / "strangers" / name for name in taken.ids])
    assert taken.labels == sorted(STRANGERS)
    paths = [home / "people" / name for name in ("ann/0.png", "ann/1.png", "bob/0.png")]
    rows = unit(scorer.encoder, paths)
    for a, b in ((0, 1), (0, 2)):
        expected = reference(method, anchors, rows[a], rows[b])
        assert scorer.score(paths[a], paths[b]) == pytest.approx(expected, abs=1e-4)
    assert scorer.score(paths[0], paths[1]) > scorer.score(paths[0], paths[2])


@pytest.mark.parametrize("method", ["ida", "s-norm"])
def test_a_search_finds_each_identity_once_by_its_best_image(home, model, method):
    scorer = FaceScorer(model, home / "strangers", method)
    given = scorer.encoder.folder(home / "people")
    kept = [n for n, name in enumerate(given.ids) if name != "bob/1.png"]
    enrolled = Embeddings([given.ids[n] for n in kept], given.vectors[kept], [given.labels[n] for n in kept])
    probe = home / "people" / "bob" / "1.png"
    found = scorer.search(probe, scorer.gallery(enrolled))
    scores = {name: scorer.score(probe, home / "people" / name) for name in enrolled.ids}
    assert found[0].identity == "bob"
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
    for identity, image, score in found:
        own = {name: value for name, value in scores.items() if name.startswith(identity)}
        assert image == max(own, key=own.get)
        assert score == pytest.approx(own[image], abs=1e-5)
    assert len(found) == 3
    assert scorer.search(probe, scorer.gallery(enrolled), top=1) == found[:1]
    scorer.threshold = (found[0].score + found[1].score) / 2
    assert scorer.search(probe, scorer.gallery(enrolled)) == found[:1]
    assert scorer.same(probe, home / "people" / found[0].image)
    assert not scorer.same(probe, home / "people" / found[1].image)


def test_files_of_anchors_and_regressors_give_the_same_as_objects(home, model, tmp_path):
    encoder = FaceEncoder(model)
    anchors = encoder.folder(home / "strangers", per_identity=1)
    write_embeddings(tmp_path / "anchors.npz", anchors)
    pair = [home / "people" / name for name in ("ann/0.png", "eve/0.png")]
    assert FaceScorer(model, tmp_path / "anchors.npz").score(*pair) == FaceScorer(model, anchors).score(*pair)
    every = encoder.folder(home / "strangers")
    regressor = vm.SupportSetRegressor(SIZE, 16, k=3)
    regressor.fit(every.vectors, vm.IDAScorer(anchors.vectors, 3).density(every.vectors), epochs=2)
    write_regressor(tmp_path / "density.pt", regressor, encoder.fingerprint)
    expected = regressor.score(*(encoder(path) for path in pair), log=True)
    assert FaceScorer(model, tmp_path / "density.pt").score(*pair) == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="is a regressor, which is for IDA"):
        FaceScorer(model, tmp_path / "density.pt", "s-norm")


def test_anchors_that_do_not_fit_are_named(home, model, tmp_path):
    with pytest.raises(ValueError, match="few has 2 anchors, and ida needs 10"):
        FaceScorer(model, people(tmp_path / "few", ["a", "b"]))
    with pytest.raises(ValueError, match="one has 1 anchors, and s-norm needs 2"):
        FaceScorer(model, people(tmp_path / "one", ["a"]), "s-norm")
    other = recognition_model(tmp_path / "other.onnx", seed=1)
    foreign = FaceEncoder(other).folder(home / "strangers")
    with pytest.raises(ValueError, match="was made with the encoder"):
        FaceScorer(model, foreign)
    with pytest.raises(ValueError, match=f"the anchors of the anchors have 5 numbers, the model's embeddings {SIZE}"):
        FaceScorer(model, Embeddings(STRANGERS, torch.randn(len(STRANGERS), 5)))
    with pytest.raises(ValueError, match="method is 'cosine'"):
        FaceScorer(model, home / "strangers", "cosine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no folder with images"):
        FaceScorer(model, tmp_path / "empty")


def test_strangers_who_are_scored_are_named(home, model):
    scorer = FaceScorer(model, home / "strangers")
    with pytest.raises(ValueError, match=r"share identities \(12, such as stranger0"):
        scorer.gallery(home / "strangers")
    anchor = home / "strangers" / scorer.encoder.folder(home / "strangers", per_identity=1).ids[0]
    with pytest.raises(ValueError, match=r"\.png is one of the anchors"):
        scorer.score(anchor, home / "people" / "ann" / "0.png")
    with pytest.raises(ValueError, match="there is no threshold"):
        scorer.same(home / "people" / "ann" / "0.png", home / "people" / "ann" / "1.png")


def test_densities_that_rival_the_cosines_are_told(model, caplog):
    """Embeddings that have collapsed: they differ less from each other than their distances from the anchors do."""
    random = torch.Generator().manual_seed(0)

    def faces(name, number, spread):
        rows = torch.eye(SIZE)[:1] + spread * torch.randn(number, SIZE, generator=random)
        return Embeddings([f"{name}{n}" for n in range(number)], rows)

    healthy = FaceScorer(model, faces("anchor", 40, 3.0))
    healthy.gallery(faces("face", 40, 3.0))
    assert caplog.text == ""
    collapsed = FaceScorer(model, Embeddings(STRANGERS, torch.eye(SIZE)[1:2] + 0.01 * torch.randn(12, SIZE)))
    collapsed.gallery(faces("face", 40, 0.01))
    assert "IDA's densities rival the cosines" in caplog.text


def calibrations(scorer, **changes):
    """A file's content: a log-likelihood ratio of 3 score - 1, and the thresholds 2 and 4."""
    method = scorer._method
    fitted = Calibration(-1.0, 3.0, changes.pop("qualities", {}))
    thresholds = [FarThreshold(1e-2, 2.0, None), FarThreshold(1e-3, 4.0, (3.5, 4.5))]
    entry = CalibratedMethod(changes.pop("title", method.title), fitted, thresholds)
    return Calibrations({}, changes.pop("encoder", scorer.encoder.fingerprint), 0.5, {}, {method.name: entry})


def test_a_threshold_comes_from_a_calibration(home, model, tmp_path):
    """A score above the threshold is one whose log-likelihood ratio is above the file's."""
    scorer = FaceScorer(model, home / "strangers", "s-norm")
    write_calibrations(tmp_path / "good.json", calibrations(scorer))
    scorer.threshold = scorer.threshold_for(tmp_path / "good.json", far=1e-3)
    assert 3 * scorer.threshold - 1 == pytest.approx(4)
    pair = [home / "people" / name for name in ("ann/0.png", "ann/1.png")]
    assert scorer.same(*pair) == (3 * scorer.score(*pair) - 1 > 4)
    with pytest.raises(ValueError, match=r"rates 0\.01, 0\.001, but not for 0\.1"):
        scorer.threshold_for(tmp_path / "good.json", far=0.1)
    other = FaceScorer(model, home / "strangers")
    with pytest.raises(ValueError, match=r"has s-norm, but the scorer is IDA-R \(k 10, tau 1\)"):
        other.threshold_for(tmp_path / "good.json", far=1e-3)
    write_calibrations(tmp_path / "foreign.json", calibrations(scorer, encoder="0" * 64))
    with pytest.raises(ValueError, match="was made with the encoder"):
        scorer.threshold_for(tmp_path / "foreign.json", far=1e-3)
    write_calibrations(tmp_path / "quality.json", calibrations(scorer, qualities={"norm": (0.1, 0.2)}))
    with pytest.raises(ValueError, match="was fitted with norm: calibrate without qualities"):
        scorer.threshold_for(tmp_path / "quality.json", far=1e-3)
