"""Upstream's own scripts, unmodified, through the launcher: needs a checkout (ARCFACE_TORCH_HOME)."""

import os
import pathlib
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import reference
import torch
import verimargin as vm
from verimargin.commands.trial_set import read_trial_set
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.scoring import methods as scoring
from verimargin_insightface import ida
from verimargin_insightface.commands.pack import pack_folder
from verimargin_insightface.commands.reshard import reshard
from verimargin_insightface.recordio import RecordReader
from verimargin_insightface.verification_set import write_bin

LAUNCHER = ("-m", "verimargin_insightface")

CONFIG = """
import os
import shutil
import sys

import torch
import verimargin as vm
from easydict import EasyDict as edict
from verimargin_insightface import register

config = edict()
config.rec = {rec!r}
config.num_classes = {num_classes}
config.num_image = 32
config.network = {network!r}
config.output = {output!r}
config.resume = {resume}
config.save_all_states = True
config.sample_rate = 0.7
config.fp16 = True  # without a GPU, autocast and the scaler switch themselves off
config.batch_size = 4
config.optimizer = "sgd"
config.lr = 0.02
config.weight_decay = 5e-4
config.num_epoch = 2
config.warmup_epoch = 0
config.num_workers = 1
config.verbose = 3
config.frequent = 1
config.val_targets = {val_targets}
config.loss = {loss}
config.kappa = {kappa}
{more}
register(config)

script = sys.modules["__main__"]


class Meter(script.AverageMeter):
    losses = 0

    def update(self, loss, n=1):
        with open(os.path.join(config.output, f"losses_{{script.rank}}.txt"), "a") as file:
            file.write(f"{{loss!r}}\\n")
        Meter.losses += 1
        if Meter.losses == {stop}:
            sys.exit(0)
        if Meter.losses == {keep}:
            shutil.copy(os.path.join(config.output, f"checkpoint_gpu_{{script.rank}}.pt"), {kept!r})
        super().update(loss, n)


script.AverageMeter = Meter
"""


@pytest.fixture(scope="module")
def checkout(arcface_torch, tmp_path_factory) -> pathlib.Path:
    """A copy of the checkout's arcface_torch, to copy configs into."""
    copy = tmp_path_factory.mktemp("up") / "recognition" / "arcface_torch"
    shutil.copytree(arcface_torch, copy, ignore=shutil.ignore_patterns("docs", "__pycache__", "work_dirs"))
    return copy


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> pathlib.Path:
    """Four classes of eight noisy pictures each, as an image folder and as a RecordIO set with a .bin set."""
    out, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for name in "abcd":
        (out / "folder" / name).mkdir(parents=True)
        face = cv2.resize(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8), (112, 112))
        for i in range(8):
            noisy = cv2.add(face, rng.integers(0, 40, face.shape, dtype=np.uint8))
            assert cv2.imwrite(str(out / "folder" / name / f"{i}.jpg"), noisy)
    pack_folder(out / "folder", out / "rec")
    images = [path.read_bytes() for path in sorted((out / "folder").glob("*/*.jpg"))]
    pairs = [(images[i], images[j]) for i in range(0, 20, 2) for j in (i + 1, i + 8)]
    write_bin(out / "rec" / "pairs.bin", [image for pair in pairs for image in pair], [True, False] * 10)
    return out


def configure(checkout, name, **values) -> str:
    defaults = {
        "num_classes": 4, "network": "mbf", "resume": False, "val_targets": [], "stop": 0,
        "keep": 0, "kept": "", "kappa": None, "more": "", "output": str(checkout / "work" / name),
        "loss": "vm.q_margin(alpha=1.5, scale=10, margin=0.2)",
    }  # fmt: skip
    (checkout / "configs" / f"{name}.py").write_text(CONFIG.format(**{**defaults, **values}))
    return f"configs/{name}.py"


def losses(folder, rank) -> list[str]:
    return (folder / f"losses_{rank}.txt").read_text().split()


@pytest.fixture(scope="module")
def resumed(python, checkout, faces):
    """The folders of a run of two epochs on two ranks, and of one that was stopped in its second and resumed."""
    whole, parts = checkout / "work" / "whole", checkout / "work" / "parts"
    config = configure(checkout, "whole", rec=str(faces / "rec"), val_targets=["pairs"])
    log = python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout)
    settings = {"rec": str(faces / "rec"), "output": str(parts)}
    config = configure(checkout, "stopped", **settings, stop=5)
    python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout)
    stopped = losses(parts, 0), losses(parts, 1)
    shutil.copytree(parts, checkout / "work" / "stopped")
    config = configure(checkout, "resumed", **settings, resume=True)
    python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout)
    return whole, parts, stopped, log.stdout


def test_resuming_continues_exactly(resumed):
    whole, parts, stopped, _ = resumed
    for rank in (0, 1):
        expected = losses(whole, rank)
        assert len(expected) == 8
        assert stopped[rank] == expected[:5]
        assert losses(parts, rank)[5:] == expected[4:]
    for name in ("checkpoint_gpu_0.pt", "checkpoint_gpu_1.pt"):
        a, b = torch.load(whole / name), torch.load(parts / name)
        assert a["global_step"] == b["global_step"] == 8
        for key in ("state_dict_backbone", "state_dict_softmax_fc"):
            assert all(torch.equal(a[key][part], b[key][part]) for part in a[key])


def test_verification_sets_are_read_while_training(resumed):
    *_, log = resumed
    assert "[pairs][6]Accuracy-Flip: " in log


@pytest.mark.parametrize(
    ("ranks", "data", "kappa"),
    [
        (2, "rec", "dict(estimator='memory', memory_dtype=torch.float16)"),
        pytest.param(1, "folder", "dict(estimator='momentum', momentum=0.8)", marks=pytest.mark.slow),
        pytest.param(2, "folder", "dict(estimator='momentum', momentum=0.8)", marks=pytest.mark.slow),
        pytest.param(1, "rec", "dict(estimator='memory')", marks=pytest.mark.slow),
    ],
)
def test_kappaface_and_a_schedule_resume_exactly(python, checkout, faces, tmp_path, ranks, data, kappa):
    """Resumed from the checkpoint that an uninterrupted run wrote after its first epoch."""
    steps, settings = 8 // ranks, {"rec": str(faces / data), "kappa": kappa, "val_targets": ["pairs"]}
    settings["more"] = "config.schedule = dict(margin=vm.Ramp(0.1, 0.5, end=6), scale=vm.Ramp(8.0, 10.0), unit='steps')"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    config = configure(checkout, "kappa", **settings, output=str(whole), keep=steps + 1, kept=str(parts))
    log = python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout).stdout
    assert "KappaFace after epoch 2: kappa mean " in log
    assert f"Global Step: {2 * steps}   active classes " in log
    assert f"Global Step: {2 * steps}   prototypes without gradient " in log
    config = configure(checkout, "resumed_kappa", **settings, output=str(parts), resume=True)
    python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout)
    for rank in range(ranks):
        head = torch.load(parts / f"checkpoint_gpu_{rank}.pt")["state_dict_softmax_fc"]
        saved = head._metadata[""]["verimargin"]["loss"]["schedule._extra_state"]
        assert (saved["count"], saved["scale"]) == (2 * steps, 10.0)
        assert losses(parts, rank) == losses(whole, rank)[steps:]
        a, b = (torch.load(folder / f"checkpoint_gpu_{rank}.pt") for folder in (whole, parts))
        for key in ("state_dict_backbone", "state_dict_softmax_fc"):
            assert all(torch.equal(a[key][part], b[key][part]) for part in a[key])
        psi, backbone = a["state_dict_softmax_fc"]["kappa.tracker.psi"], a["state_dict_backbone"]
        assert len(psi.unique()) == 4
        assert torch.equal(psi, a["state_dict_softmax_fc"]["loss.margin.psi"])
    assert torch.load(whole / "model.pt").keys() == backbone.keys()  # a plain backbone


def resumed_runs(python, checkout, faces, tmp_path, ranks, **settings):
    """The folders of a whole run, and of one that goes on from the checkpoint after its first epoch, which is equal."""
    steps, settings = 8 // ranks, {"rec": str(faces / "rec"), **settings}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    config = configure(checkout, "unbroken", **settings, output=str(whole), keep=steps + 1, kept=str(parts))
    python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout)
    config = configure(checkout, "broken", **settings, output=str(parts), resume=True)
    python(*LAUNCHER, "train_v2.py", config, ranks=ranks, cwd=checkout)
    for rank in range(ranks):
        assert losses(parts, rank) == losses(whole, rank)[steps:]
        a, b = (torch.load(folder / f"checkpoint_gpu_{rank}.pt") for folder in (whole, parts))
        for key in ("state_dict_backbone", "state_dict_softmax_fc"):
            assert all(torch.equal(a[key][part], b[key][part]) for part in a[key])
    return whole, parts


@pytest.mark.parametrize(
    ("ranks", "loss"),
    [
        (2, "vm.q_margin(1.5, 10, 0.2, quality=vm.Quality(0.5, h=2.0))"),
        pytest.param(1, "vm.adaface(scale=16, margin=0.4, h=2.0)", marks=pytest.mark.slow),
        pytest.param(2, "vm.adaface(scale=16, margin=0.4, h=2.0)", marks=pytest.mark.slow),
    ],
)
def test_a_margin_that_follows_the_quality_resumes_exactly(python, checkout, faces, tmp_path, ranks, loss):
    """The running averages of the norms too."""
    whole, _ = resumed_runs(python, checkout, faces, tmp_path, ranks, loss=loss)
    averages = []
    for rank in range(ranks):
        head = torch.load(whole / f"checkpoint_gpu_{rank}.pt")["state_dict_softmax_fc"]
        averages.append([float(head[f"loss.margin.quality.{name}"]) for name in ("mean", "std")])
    assert averages == averages[:1] * ranks
    assert averages[0] != [20.0, 100.0]


@pytest.mark.slow
def test_subcenters_resume_exactly_and_are_pruned(python, checkout, faces, tmp_path):
    """From the training to the cleaned one, by the commands of the guide."""
    whole, _ = resumed_runs(python, checkout, faces, tmp_path, 2, more="config.subcenters = 3")
    assert torch.load(whole / "checkpoint_gpu_0.pt")["state_dict_softmax_fc"]["weight"].shape[:2] == (2, 3)
    verimargin = "from verimargin.commands.main import main; main()"
    embeddings, cleaned = str(tmp_path / "training.npz"), str(tmp_path / "cleaned")
    network = ("--network", "mbf")
    python(
        "-c", verimargin, "embed-faces", str(faces / "rec"), str(whole / "model.pt"), embeddings, *network, cwd=checkout
    )
    python("-c", verimargin, "prune", str(whole), embeddings, cleaned, cwd=checkout)
    settings = {"rec": str(faces / "rec"), "output": str(tmp_path / "from_cleaned"), "stop": 1}
    config = configure(checkout, "cleaned", **settings, more=f"config.pretrained = {cleaned!r}")
    log = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout).stderr
    assert f"the training starts from {cleaned}, with its prototypes" in log


def test_a_training_starts_from_a_finished_run(python, checkout, faces, resumed):
    whole, *_ = resumed
    found = {}
    for path in (whole, whole / "model.pt"):
        output = checkout / "work" / f"from_{path.name}"
        settings = {"rec": str(faces / "rec"), "output": str(output), "stop": 1}
        config = configure(checkout, "finetune", **settings, more=f"config.pretrained = {str(path)!r}")
        log = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout).stderr
        found[path.name] = log, float(losses(output, 0)[0])
    (log, inherited), (new_log, new) = found.values()
    assert f"the training starts from {whole}, with its prototypes" in log
    assert "model.pt, with new prototypes" in new_log
    assert inherited < 0.8 * new


def test_another_number_of_ranks_goes_on(python, checkout, faces, resumed):
    """With half as many ranks there are twice as many steps; by the old ones the learning rate would end at 0."""
    folder = checkout / "work" / "one"
    shutil.copytree(checkout / "work" / "stopped", folder)
    config = configure(checkout, "one", rec=str(faces / "rec"), output=str(folder), resume=True)
    done = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout)
    assert "is of 2 ranks, and is resumed on 1" in done.stderr
    assert (
        "1 ranks make 16 steps, those of the checkpoint made 8: the learning rate goes on from epoch 1" in done.stderr
    )
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint_gpu_0.pt"]
    checkpoint = torch.load(folder / "checkpoint_gpu_0.pt")
    assert checkpoint["epoch"] == 2
    assert checkpoint["state_lr_scheduler"]["last_epoch"] == 16
    assert len(checkpoint["state_dict_softmax_fc"]["weight"]) == 4


@pytest.mark.slow
def test_upstreams_own_head_goes_on_with_resharded_files(python, checkout, faces, tmp_path):
    """Trained and resumed by PartialFC_V2: `verimargin reshard` cuts its files, which know nothing of ours."""
    run, one = tmp_path / "run", tmp_path / "one"
    for name, values in {"theirs": {"output": run, "stop": 5}, "go_on": {"output": one, "resume": True}}.items():
        path = checkout / configure(
            checkout, name, rec=str(faces / "rec"), **{**values, "output": str(values["output"])}
        )
        ours = ("config.loss =", "config.kappa =", "register(config)")
        path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith(ours)))
    python(*LAUNCHER, "train_v2.py", "configs/theirs.py", ranks=2, cwd=checkout)
    weights = [torch.load(run / f"checkpoint_gpu_{rank}.pt")["state_dict_softmax_fc"]["weight"] for rank in (0, 1)]
    reshard(run, one, 1)
    checkpoint = torch.load(one / "checkpoint_gpu_0.pt")
    assert torch.equal(checkpoint["state_dict_softmax_fc"]["weight"], torch.cat(weights))
    python(*LAUNCHER, "train_v2.py", "configs/go_on.py", ranks=1, cwd=checkout)
    assert torch.load(one / "checkpoint_gpu_0.pt")["epoch"] == 2


def test_another_number_of_classes_is_refused(python, checkout, faces, resumed):
    settings = {"rec": str(faces / "rec"), "output": str(checkout / "work" / "stopped"), "resume": True}
    config = configure(checkout, "more", **settings, num_classes=6)
    done = python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout, check=False)
    assert done.returncode
    assert "another loss or of other settings (config.num_classes is 4 there and 6 here)" in done.stderr


def test_an_unknown_network_is_named(python, checkout, faces):
    config = configure(checkout, "network", rec=str(faces / "folder"), network="r51")
    done = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout, check=False)
    assert "ValueError: config.network is 'r51'" in done.stderr


def test_a_damaged_record_stops_training_by_its_name(python, checkout, faces, tmp_path):
    shutil.copytree(faces / "rec", tmp_path / "rec")
    with RecordReader(tmp_path / "rec" / "train.idx", tmp_path / "rec" / "train.rec") as records:
        image = records.read_idx(7)[24:]
    data = (tmp_path / "rec" / "train.rec").read_bytes()
    (tmp_path / "rec" / "train.rec").write_bytes(data.replace(image, bytes(len(image))))
    config = configure(checkout, "damaged", rec=str(tmp_path / "rec"), stop=9)
    done = python(*LAUNCHER, "train_v2.py", config, ranks=1, cwd=checkout, check=False)
    assert "record 7 of " in done.stderr + done.stdout


@pytest.fixture(scope="module")
def model(python, checkout, resumed) -> pathlib.Path:
    """The folder of a trained model.pt, exported by upstream's torch2onnx.py."""
    folder = checkout / "work" / "model"
    folder.mkdir()
    shutil.copy(resumed[0] / "model.pt", folder)
    python(*LAUNCHER, "torch2onnx.py", folder / "model.pt", "--network", "mbf", cwd=checkout)
    return folder


@pytest.fixture(scope="module")
def in_checkout(arcface_torch):
    """Put upstream's modules and its python-package on the path of another process's code."""
    package = arcface_torch.resolve().parents[1] / "python-package"
    if not package.is_dir():
        pytest.skip(f"the checkout of {arcface_torch} has no python-package")
    return f"import sys; sys.path[:0] = [{str(arcface_torch)!r}, {str(package)!r}]\n"


def test_the_exported_backbone_equals_torch(python, model, in_checkout):
    code = """
import numpy as np, onnxruntime, torch
from backbones import get_model
net = get_model("mbf", fp16=False, num_features=512)
net.load_state_dict(torch.load("model.pt"))
net.eval()
session = onnxruntime.InferenceSession("model.onnx")
for batch in (1, 3):
    image = torch.rand(batch, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"data": image.numpy()})[0], net(image).numpy(), atol=1e-4)
"""
    python("-c", in_checkout + code, cwd=model)


def test_the_exported_file_counts_as_its_model(model):
    assert fingerprint(model / "model.onnx") == fingerprint(model / "model.pt")


def test_upstreams_onnx_classes_accept_it(python, model, in_checkout):
    code = """
import numpy as np
from onnx_helper import ArcFaceORT
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
ort = ArcFaceORT(".", cpu=True)
refused = ort.check()
assert refused is None or refused.startswith("max time cost exceed"), refused  # a slow machine is not the model's
onnx = ArcFaceONNX("model.onnx")
assert (ort.feat_dim, onnx.input_mean, ort.input_mean) == (512, 127.5, 127.5)
images = [np.random.randint(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(3)]
np.testing.assert_allclose(onnx.get_feat(images), ort.forward(images), atol=1e-4)
"""
    python("-c", in_checkout + code, cwd=model)


def test_inference(python, checkout, model):
    done = python(*LAUNCHER, "inference.py", "--network", "mbf", "--weight", model / "model.pt", cwd=checkout)
    assert len(done.stdout.replace("[", "").replace("]", "").split()) > 100


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


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_after_kills_at_random_moments_a_rerun_goes_on(checkout, faces, tmp_path):
    """One rank, and config.resume = True from the beginning, as in a queue that starts a killed job again."""
    draw, folder = random.Random(0), tmp_path / "run"
    config = configure(checkout, "killed", rec=str(faces / "rec"), output=str(folder), resume=True)
    command = [sys.executable, *LAUNCHER, "train_v2.py", config]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}

    def run(seconds=None):
        """The output; None if it was killed, with all of its processes."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        environment = {**os.environ, **alone, "MASTER_PORT": port}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
        assert code == 0, (tmp_path / "log").read_text()[-4000:]
        return (tmp_path / "log").read_text()

    began = time.monotonic()
    run()
    took = time.monotonic() - began
    kills = 0
    while kills < 20:
        if run(draw.uniform(0.3 * took, took)) is None:
            kills += 1
        else:
            shutil.rmtree(folder)  # the next kills meet a new run
    run()
    assert torch.load(folder / "checkpoint_gpu_0.pt")["epoch"] == 2
    assert not list(folder.glob("*.partial"))
