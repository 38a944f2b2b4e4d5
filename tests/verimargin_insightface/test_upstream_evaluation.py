"""Upstream's own IJB evaluators, unmodified, through the launcher: needs a checkout (ARCFACE_TORCH_HOME)."""

import pathlib
import runpy
import shutil

import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from upstream_runs import LAUNCHER
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.scoring import methods as scoring
from verimargin_insightface import ida


@pytest.fixture(scope="module")
def protocol(faces) -> pathlib.Path:
    """An IJB-C-format protocol: two images per template, all pairs of templates."""
    root, templates, rows, points = faces / "IJBC", [], [], []
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    for number, path in enumerate(sorted((faces / "folder").glob("*/*.jpg"))):
        name = f"{path.parent.name}{path.name}"
        shutil.copy(path, root / "loose_crop" / name)
        if number % 2 == 0:
            templates.append(path.parent.name)
        rows.append(f"{name} {len(templates)} {number}")
        points.append(f"{name} 38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2 0.9")
    pairs = [f"{i + 1} {j + 1} {int(templates[i] == templates[j])}" for j in range(16) for i in range(j)]
    for name, lines in (("face_tid_mid", rows), ("name_5pts_score", points), ("template_pair_label", pairs)):
        (root / "meta" / f"ijbc_{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_the_evaluators_run_and_agree(python, checkout, arcface_torch, in_checkout, model, protocol):
    """Upstream's encoders with the same weights: torch, ONNX, and ONNX with another normalisation of the pixels."""
    ijb_evals = arcface_torch.resolve().parent / "_evaluation_" / "ijb" / "ijb_evals.py"
    data = ("--image-path", protocol)
    weights = ("--model-prefix", model / "model.pt", "--network", "mbf", "--result-dir", model, "--batch-size", 10)
    python(*LAUNCHER, "eval_ijbc.py", *weights, *data, cwd=checkout)
    done = python(*LAUNCHER, arcface_torch / "onnx_ijbc.py", "--model-root", model, *data, cwd=model)
    assert "IJBC.npy-IJBC" in done.stdout
    python(*LAUNCHER, ijb_evals, "-m", model / "model.onnx", "-d", protocol.parent, "-R", model / "scores.npz")
    by_torch, by_onnx = np.load(model / "insightface" / "ijbc.npy"), np.load(model / "IJBC_result" / "IJBC.npy")
    assert len(by_torch) == 120
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)
    np.testing.assert_allclose(np.load(model / "scores.npz")["scores"][0], by_torch, atol=0.05)


def test_templates_and_scores_are_those_of_ijb_evals(arcface_torch, tmp_path):
    """`verimargin score` of saved image embeddings, and the script's default (N0D1F1) of the same."""
    script = runpy.run_path(str(arcface_torch.parent / "_evaluation_" / "ijb" / "ijb_evals.py"))
    rng = np.random.default_rng(0)
    templates, media = rng.integers(3, 15, 60), rng.integers(1, 4, 60)
    scores = rng.uniform(0.3, 1.0, 60).round(3)
    embs, embs_f = rng.normal(size=(2, 60, 8)).astype(np.float32)
    (tmp_path / "ijbc_face_tid_mid.txt").write_text("".join(f"x.jpg {t} {m}\n" for t, m in zip(templates, media)))
    (tmp_path / "ijbc_name_5pts_score.txt").write_text("".join(f"x.jpg {'1.5 ' * 10}{s}\n" for s in scores))
    pairs = [(a, b, (a - b) % 4 == 0) for a in np.unique(templates) for b in np.unique(templates) if a < b]
    (tmp_path / "ijbc_template_pair_label.txt").write_text("".join(f"{a} {b} {y:d}\n" for a, b, y in pairs))
    np.savez(tmp_path / "result.npz", embs=embs, embs_f=embs_f)

    images = script["process_embeddings"](embs, embs_f, face_scores=scores)
    features, unique, _ = script["image2template_feature"](images, templates, media)
    first, second = np.array([pair[:2] for pair in pairs]).T
    expected = script["verification_11"](features, unique, first, second)

    task = read_trial_set(tmp_path / "result.npz", tmp_path / "ijbc_template_pair_label.txt")
    i, j = (torch.from_numpy(side) for side in task.trials[:2])
    found = scoring.score_trials([scoring.COSINE], task.embeddings.vectors, i, j)["cosine"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert task.trials.same.tolist() == [pair[2] for pair in pairs]


KEEP_WHAT_WAS_GIVEN = """
import sys
import numpy as np
from verimargin_insightface import ida, launcher
ours, given = ida.Comparison.verification, sys.argv[1]
def verification(self, features, templates, p1, p2, *rest):
    np.savez(given, features=features, templates=templates, p1=p1, p2=p2)
    return ours(self, features, templates, p1, p2, *rest)
ida.Comparison.verification = verification
launcher.main(sys.argv[2:])
"""


def test_the_evaluators_score_every_pair_with_ida(python, checkout, arcface_torch, model, protocol):
    anchors, k, tau = np.random.default_rng(3).normal(size=(50, 512)).astype(np.float32), 5, 2.0
    names, encoder = [str(n) for n in range(50)], fingerprint(model / "model.pt")  # the .onnx file is of the same
    write_embeddings(model / "anchors.npz", Embeddings(names, torch.from_numpy(anchors), encoder=encoder))
    ijb_evals = arcface_torch.resolve().parent / "_evaluation_" / "ijb" / "ijb_evals.py"
    (model / "ida").mkdir()
    weights = ("--model-prefix", model / "model.pt", "--network", "mbf", "--result-dir", model / "ida")
    runs = {
        "insightface/ijbc.npy": (
            arcface_torch / "eval_ijbc.py",
            *weights,
            "--batch-size",
            10,
            "--image-path",
            protocol,
        ),
        "IJBC_result/IJBC.npy": (arcface_torch / "onnx_ijbc.py", "--model-root", model, "--image-path", protocol),
        "scores.npz": (
            ijb_evals,
            "-m",
            model / "model.onnx",
            "-d",
            protocol.parent,
            "-R",
            model / "ida" / "scores.npz",
        ),
    }
    for saved, arguments in runs.items():
        options = ("--ida", model / "anchors.npz", "--ida-k", k, "--ida-tau", tau)
        python("-c", KEEP_WHAT_WAS_GIVEN, model / "given.npz", *options, *arguments, cwd=checkout)
        given = np.load(model / "given.npz")
        place = {t: n for n, t in enumerate(given["templates"])}
        density = reference.ida_density(given["features"], anchors, k, tau)
        expected = [
            reference.dao(given["features"][i], given["features"][j], density[i], density[j], tau)
            for i, j in zip(*([place[t] for t in given[side]] for side in ("p1", "p2")))
        ]
        path = (model if saved.startswith("IJBC") else model / "ida") / saved
        scores = np.load(path)["scores"][0] if path.suffix == ".npz" else np.load(path)
        assert len(scores) == 120
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_the_evaluator_of_identification_scores_with_ida(arcface_torch):
    """ijb_evals.py's own function returns all the scores that its rates are made of."""
    rng = np.random.default_rng(4)
    anchors, probes, gallery = (rng.normal(size=(n, 32)) for n in (30, 7, 5))
    probes, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (probes, gallery))
    path = arcface_torch.resolve().parent / "_evaluation_" / "ijb" / "ijb_evals.py"
    comparison = ida.Comparison(vm.IDAScorer(torch.from_numpy(anchors), 4, 3.0))
    script = {"__name__": "ijb_evals", ida.DECORATOR: comparison.instead_of}
    exec(ida.with_seams(str(path)), script)
    ids, known = np.array([9, 1, 2, 3, 4, 5, 8]), np.array([1, 2, 3, 4, 5])
    *_, found = script["evaluation_1N"](probes, gallery, ids, known, [0.5, 1.0])
    of_probes, of_gallery = (reference.ida_density(x, anchors, 4, 3.0) for x in (probes, gallery))
    expected = np.array(
        [
            [reference.dao(p, g, of_probes[i], of_gallery[j], 3.0) for j, g in enumerate(gallery)]
            for i, p in enumerate(probes)
        ]
    )
    for (others, own), p in zip(found[:5], range(1, 6)):
        np.testing.assert_allclose(own[0], expected[p, p - 1], rtol=1e-5)
        np.testing.assert_allclose(others, np.delete(expected[p], p - 1), rtol=1e-5)
    for (scores, _), p in zip(found[5:], (0, 6)):
        np.testing.assert_allclose(scores, expected[p], rtol=1e-5)
