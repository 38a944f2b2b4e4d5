"""The evaluators' comparison by IDA, with small scripts; upstream's are in test_upstream_evaluation.py."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.files.scorers import write_regressor
from verimargin_insightface import ida
from verimargin_insightface.launcher import main

SIZE, TEMPLATES, ANCHORS = 12, 9, 40

EVALUATOR = """
import sys
from dataclasses import replace

import numpy as np

data = np.load(sys.argv[1])


def verification(template_norm_feats=None, unique_templates=None, p1=None, p2=None):
    raise AssertionError("ours takes its place")


def verification2(template_norm_feats=None, unique_templates=None, p1=None, p2=None):
    raise AssertionError("not called")


def evaluation_1N(query_feats, gallery_feats, query_ids, reg_ids, fars=[0.01, 0.1]):
    similarity = np.dot(query_feats, gallery_feats.T)
    assert query_feats.shape == (len(query_ids), gallery_feats.shape[1])
    return similarity, fars


score = verification(data["features"], data["templates"], data["p1"], data["p2"])
similarity, fars = evaluation_1N(data["features"], data["gallery"], data["templates"], data["templates"], fars=[1])
assert fars == [1] and __name__ == "__main__" and sys.modules["__main__"].__dict__ is globals()
np.savez(sys.argv[2], score=score, similarity=similarity)
"""

RNG = np.random.default_rng(0)


def unit(rows: int, size: int = SIZE) -> np.ndarray:
    x = RNG.normal(size=(rows, size))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


FEATURES, GALLERY, A = unit(TEMPLATES), unit(4), RNG.normal(size=(ANCHORS, SIZE)).astype(np.float32)
TEMPLATE_IDS = np.array([2, 3, 5, 8, 13, 21, 34, 55, 89])
P1, P2 = RNG.choice(TEMPLATE_IDS, (2, 300))


def dao(f1: np.ndarray, f2: np.ndarray, k: int, tau: float) -> np.ndarray:
    densities = [reference.ida_density(f, A, k, tau) for f in (f1, f2)]
    return np.exp(tau * (f1 * f2).sum(1)) * (densities[0] + densities[1])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "script.py").write_text(EVALUATOR)
    np.savez(tmp_path / "data.npz", features=FEATURES, gallery=GALLERY, templates=TEMPLATE_IDS, p1=P1, p2=P2)
    write_embeddings(tmp_path / "anchors.npz", Embeddings([str(n) for n in range(ANCHORS)], torch.from_numpy(A)))
    return tmp_path


def launch(python, files, *options, script="script.py", check=True):
    arguments = (files / script, files / "data.npz", files / "out.npz")
    return python("-m", "verimargin_insightface", *options, *arguments, cwd=files, check=check)


@pytest.mark.parametrize(("options", "k", "tau"), [((), 10, 1.0), (("--ida-k", "3", "--ida-tau", "20"), 3, 20.0)])
def test_a_script_gets_the_formulas_scores(python, files, options, k, tau):
    done = launch(python, files, "--ida", "anchors.npz", *options)
    assert f"verification compares by IDA-R, 40 anchors, k {k}, tau {tau:g}" in done.stderr
    found, place = np.load(files / "out.npz"), {t: n for n, t in enumerate(TEMPLATE_IDS)}
    i, j = ([place[t] for t in side] for side in (P1, P2))
    assert found["score"].dtype == np.float64
    np.testing.assert_allclose(found["score"], dao(FEATURES[i], FEATURES[j], k, tau), rtol=1e-5)
    for n in range(len(GALLERY)):
        expected = dao(FEATURES, np.broadcast_to(GALLERY[n], FEATURES.shape), k, tau)
        np.testing.assert_allclose(found["similarity"][:, n], expected, rtol=1e-5)


def test_a_regressor_takes_the_anchors_place(python, files):
    regressor = vm.SupportSetRegressor(SIZE, 8, k=5, tau=2.0)
    regressor.fit(torch.from_numpy(A), vm.IDAScorer(torch.from_numpy(A), 5, 2.0).density(torch.from_numpy(A)), epochs=2)
    write_regressor(files / "ssr.pt", regressor)
    done = launch(python, files, "--ida", "ssr.pt")
    assert "IDA-L, fitted for k 5, tau 2" in done.stderr
    f = torch.from_numpy(FEATURES).float()
    place = {t: n for n, t in enumerate(TEMPLATE_IDS)}
    expected = regressor.score(f[[place[t] for t in P1]], f[[place[t] for t in P2]])
    np.testing.assert_allclose(np.load(files / "out.npz")["score"], expected, rtol=1e-5)
    with pytest.raises(SystemExit, match=r"ssr\.pt holds a regressor that was fitted for k 5 and tau 2: leave --ida-k"):
        main(["--ida", str(files / "ssr.pt"), "--ida-k", "5", str(files / "script.py")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ida", "nothing.npz"), r"nothing\.npz do not exist"),
        (("--ida", "anchors.npz", "--ida-k", "41"), "k is 41, but there are 40 anchors"),
        (("--ida", "anchors.npz", "--ida-tau", "0"), "tau is 0"),
        (("--ida", "anchors.npz", "--ida-tau", "301"), "tau is 301: its scores would leave float64's range"),
    ],
)
def test_what_cannot_be_is_refused_before_the_script_starts(files, monkeypatch, options, message):
    monkeypatch.chdir(files)
    with pytest.raises(SystemExit, match=message):
        main([*options, "script.py"])


def test_settings_without_anchors_are_refused(files, capsys):
    with pytest.raises(SystemExit):
        main(["--ida-k", "4", str(files / "script.py")])
    assert "--ida-k and --ida-tau belong to --ida FILE" in capsys.readouterr().err


def test_a_script_without_the_functions_is_refused(tmp_path):
    script = tmp_path / "train_v2.py"
    script.write_text("class Trainer:\n    def verification(self):\n        pass\n")
    with pytest.raises(ValueError, match=r"train_v2\.py defines none of verification, .*: --ida is for onnx_ijbc\.py"):
        ida.with_seams(str(script))
    script.write_text("def verification(features, p1, p2):\n    pass\n")
    with pytest.raises(
        ValueError, match=r"defines verification\(features, p1, p2\), but --ida replaces a function that begins"
    ):
        ida.with_seams(str(script))


def test_another_encoder_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    models = tmp_path / "models"
    models.mkdir()
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    anchors = Embeddings(
        [str(n) for n in range(ANCHORS)], torch.from_numpy(A), encoder=fingerprint(tmp_path / "model.pt")
    )
    write_embeddings(tmp_path / "anchors.npz", anchors)
    known = str(tmp_path / "anchors.npz")
    ida.open_scorer(known, None, None, ["--model-prefix", str(tmp_path / "model.pt")])
    ida.open_scorer(known, None, None, ["--image-path", str(tmp_path / "none")])
    with pytest.raises(ValueError, match=r"anchors\.npz holds was made with .*other\.pt \(an \.onnx file that was"):
        ida.open_scorer(known, None, None, [f"--model-prefix={tmp_path / 'other.pt'}"])

    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["data"], ["embedding"])],
        "graph",
        [onnx.helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, ["batch", 512])],
        [onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", 512])],
    )
    onnx.save(onnx.helper.make_model(graph), models / "model.onnx")
    write_embeddings(tmp_path / "unknown.npz", replace(anchors, encoder=""))
    with pytest.raises(ValueError, match=r"is for embeddings of 12 numbers, .*model\.onnx's have 512"):
        ida.open_scorer(str(tmp_path / "unknown.npz"), None, None, ["--model-root", str(models)])


def comparison(**options) -> ida.Comparison:
    return ida.Comparison(vm.IDAScorer(torch.from_numpy(A), **options))


def test_blocks_change_nothing_and_densities_are_computed_once_per_template(monkeypatch):
    whole, parts = comparison(), comparison(max_bytes=64)
    np.testing.assert_allclose(parts.matrix(FEATURES, GALLERY), whole.matrix(FEATURES, GALLERY), rtol=1e-6)
    seen = []
    log_density = vm.IDAScorer.log_density
    monkeypatch.setattr(vm.IDAScorer, "log_density", lambda self, f: seen.append(len(f)) or log_density(self, f))
    once = comparison()
    once.matrix(FEATURES, GALLERY)
    once.matrix(FEATURES, GALLERY[:2])
    once.verification(FEATURES, TEMPLATE_IDS, P1, P2)
    assert seen == [TEMPLATES, 4, 2]


def test_features_edited_in_place_get_new_densities():
    """The densities were kept for the array, whatever had become of it."""
    edited, kept = FEATURES.copy(), comparison()
    kept.verification(edited, TEMPLATE_IDS, P1, P2)
    edited[::2] = edited[::2][::-1].copy()
    fresh = comparison().verification(edited, TEMPLATE_IDS, P1, P2)
    np.testing.assert_array_equal(kept.verification(edited, TEMPLATE_IDS, P1, P2), fresh)


@pytest.mark.parametrize(("flaw", "message"), [(0.0, "template 13 has norm 0"), (np.nan, "template 13 has norm nan")])
def test_a_template_without_a_direction_is_named(flaw, message):
    features = FEATURES.copy()
    features[4] = flaw
    with pytest.raises(ValueError, match=message):
        comparison().verification(features, TEMPLATE_IDS, P1, P2)


def test_templates_without_images_and_other_sizes_are_named():
    for missing in (4, 90, 10**6, -1, -2, -92):  # from the end of a table, -2 is template 89
        with pytest.raises(ValueError, match=f"names template {missing}, but there is no image of it .1 such pairs"):
            comparison().verification(FEATURES, TEMPLATE_IDS, np.append(P1, 2), np.append(P2, missing))
    with pytest.raises(ValueError, match="features have 6 numbers, the scorer's 12"):
        comparison().verification(FEATURES[:, :6], TEMPLATE_IDS, P1, P2)


def test_probes_are_good_for_nothing_else():
    probes = ida.Probes(FEATURES, comparison().matrix)
    with pytest.raises(TypeError, match="no implementation found"):
        np.sort(probes)


@pytest.mark.parametrize(("length", "told"), [(0.0, False), (30.0, True)])
def test_densities_that_rival_the_cosines_are_told_once(caplog, length, told):
    """Half-trained: embeddings with a long common direction, which the prototypes have nothing of."""
    random = np.random.default_rng(0)
    voices = random.normal(size=(140, 32)) * (np.arange(32) > 0)
    scorer = vm.IDAScorer(torch.from_numpy(voices[:100]).float(), k=3)
    features = voices[100:].repeat(3, 0) + random.normal(size=(120, 32)) + length * np.eye(32)[0]
    compare = ida.Comparison(scorer)
    for rows in (features[:20], features, features[::-1]):
        compare.matrix(rows, features[:5])
    assert caplog.text.count("IDA's densities rival the cosines: over the pairs") == told
