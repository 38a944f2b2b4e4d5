"""A folder with small stand-ins of what the commands of the documentation read, and how each command is tried there.

`ARCFACE_TORCH_HOME` and `SPEECHBRAIN_HOME`, where they are set, say which scripts upstream has.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import combinations, pairwise, takewhile
from pathlib import Path

import numpy as np
import small_training_folder
import torch
import verimargin as vm
from small_faces import SmallFaceNet, people
from verimargin.files import hparams
from verimargin.files.scorers import write_regressor
from verimargin_insightface.face_trials import LANDMARKS
from verimargin_insightface.onnx_export import export_onnx

ROOT = Path(__file__).resolve().parents[2]
SIZE, FACE_SIZE, LATENTS = 128, 16, 128
CLASSES, FACE_CLASSES = 260, 14  # more than the anchors and cohorts that the pages ask for
HARMLESS = {"cd", "cp", "export", "git", "ls", "mkdir"}
SPEECHBRAIN_SCRIPTS = {"train_speaker_embeddings.py", "speaker_verification_cosine.py"}
STOCK_RECIPES = {"train_ecapa_tdnn.yaml", "train_ecapa_tdnn_mel_spec.yaml", "train_resnet.yaml"}
FACE_SCRIPTS = {"train_v2.py", "torch2onnx.py", "onnx_ijbc.py", "eval_ijbc.py", "ijb_evals.py"}

# The package of arcface_torch's folder, with the network of the stand-in run.
BACKBONES = """
import torch
def get_model(name, dropout, fp16):
    return torch.nn.Sequential(torch.nn.AvgPool2d(28), torch.nn.Flatten(), torch.nn.Linear(48, {size}))
"""

# What the IJB evaluators have that the launcher looks for.
EVALUATOR = """
import numpy as np
def {name}(template_norm_feats=None, unique_templates=None, p1=None, p2=None):
    raise SystemExit("upstream's own comparison was called")
def evaluation_1N(query_feats, gallery_feats):
    return np.dot(query_feats, gallery_feats.T)
features = np.random.default_rng(0).normal(size=(6, {size})).astype(np.float32)
scores = {name}(features, np.arange(6), np.arange(3), np.arange(3, 6))
assert scores.shape == (3,) and (scores > 0).all()
assert evaluation_1N(features, features[:2]).shape == (6, 2)
"""


def make(folder: Path) -> None:
    """The stand-ins. The folder is in the place of arcface_torch's; the IJB evaluators lie beside it."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    _embeddings(folder, random)
    _checkpoints(folder)
    _speech(folder, random)
    _faces(folder, random)
    evaluators = folder.parent / "_evaluation_" / "ijb"
    evaluators.mkdir(parents=True, exist_ok=True)
    for script, name in (("onnx_ijbc.py", "verification"), ("eval_ijbc.py", "verification")):
        (folder / script).write_text(EVALUATOR.format(name=name, size=FACE_SIZE))
    for place in (evaluators, folder):
        (place / "ijb_evals.py").write_text(EVALUATOR.format(name="verification_11", size=FACE_SIZE))


def make_people(folder: Path) -> None:
    """A face model, and faces of strangers, of people and of a visitor."""
    export_onnx(SmallFaceNet(), folder / "model.onnx")
    people(folder / "strangers", [f"stranger{n}" for n in range(12)])
    people(folder / "people", ["ann", "bob"], images=3, seed=1)
    people(folder, ["visitor"], images=1, seed=2)
    (folder / "visitor" / "0.png").rename(folder / "visitor.png")


def _embeddings(folder: Path, random: np.random.Generator) -> None:
    def write(name: str, ids: list[str], **more) -> None:
        vectors = random.normal(size=(len(ids), SIZE)).astype(np.float32)
        np.savez(folder / f"{name}.npz", ids=ids, embeddings=vectors, **more)

    write("anchors", [f"a{n}" for n in range(CLASSES)])
    write("cohort", [f"c{n}/a" for n in range(400)])
    write("distractors", [f"d{n}/a" for n in range(150)])
    write("train", [f"t{n % 60}/{n}" for n in range(300)], labels=[f"t{n % 60}" for n in range(300)])
    ids = [f"s{n // 5}/{n % 5}" for n in range(50)]
    write("test", ids, sizes=random.uniform(2, 8, len(ids)))
    dev = [f"v{n // 4}/{n % 4}" for n in range(60)]
    voices = random.normal(size=(15, SIZE)).repeat(4, axis=0)
    rows = (voices + 2.5 * random.normal(size=voices.shape)).astype(np.float32)
    np.savez(folder / "dev.npz", ids=dev, embeddings=rows, sizes=random.uniform(2, 8, len(dev)))
    regressor = vm.SupportSetRegressor(SIZE, 4)
    regressor.fit(torch.randn(20, SIZE), torch.rand(20) + 0.1, epochs=1)
    write_regressor(folder / "ssr.pt", regressor)
    for name, listed in (("trials", ids), ("dev", dev)):
        pairs = [f"{a.split('/')[0] == b.split('/')[0]:d} {a} {b}" for a, b in combinations(listed, 2)]
        (folder / f"{name}.txt").write_text("\n".join(pairs) + "\n")
    (folder / "exclude.txt").write_text("3\n")


def _checkpoints(folder: Path) -> None:
    checkpoint = folder / "CHECKPOINT"
    checkpoint.mkdir()
    torch.save({"weight": torch.randn(CLASSES, SIZE)}, checkpoint / "classifier.ckpt")
    tracker = vm.KappaTracker([5] * 6, 8)
    tracker.update(torch.randn(30, 8), torch.arange(6).repeat(5))
    tracker.end_epoch()
    state = {f"tracker.{name}": value for name, value in tracker.state_dict().items()}
    names = {"class_names": [*"abcdef"]}
    torch.save({**state, "_extra_state": names}, checkpoint / "kappa.ckpt")
    kappa = {f"kappa.{name}": value for name, value in state.items()}
    torch.save({"state_dict_softmax_fc": kappa}, folder / "checkpoint_gpu_0.pt")
    (folder / "names.txt").write_text("\n".join("uvwxyz"))
    generator = torch.jit.trace(torch.nn.Linear(LATENTS, 8), torch.zeros(2, LATENTS))
    torch.jit.save(generator, folder / "generator.pt")
    _export(torch.nn.Linear(8, SIZE), (8,), folder / "encoder.onnx")


def _speech(folder: Path, random: np.random.Generator) -> None:
    import soundfile
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    sizes = {"channels": [128] * 4 + [384], "attention_channels": 64, "se_channels": 64, "lin_neurons": SIZE}
    model = ECAPA_TDNN(40, kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1], **sizes)
    torch.save(model.state_dict(), folder / "CHECKPOINT" / "embedding_model.ckpt")
    encoded = [f"'p{n}' => {n}" for n in range(CLASSES)]
    (folder / "SAVE").mkdir()
    (folder / "SAVE" / "label_encoder.txt").write_text("\n".join([*encoded, "====", "'starting_index' => 0"]))
    annotations = {
        "SAVE/train.csv": [f"p{n}/a/0" for n in range(105)],
        "VERIFY/enrol.csv": [f"e{n}/a/0" for n in range(4)],
        "VERIFY/test.csv": [f"e{n}/a/1" for n in range(4)],
    }
    for annotation, names in annotations.items():
        lines = ["ID,duration,wav,start,stop,spk_id"]
        for name in names:
            path = folder / "DATA" / "wav" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * random.normal(size=8000), 16000)
            lines.append(f"{name},0.5,$data_root/wav/{name}.wav,0,8000,{name.split('/')[0]}")
        (folder / annotation).parent.mkdir(exist_ok=True)
        (folder / annotation).write_text("\n".join(lines) + "\n")
    trials = [f"{a == b:d} e{a}/a/0.wav e{b}/a/1.wav\n" for a in range(4) for b in range(4)]
    (folder / "DATA" / "veri_test.txt").write_text("".join(trials))
    run = small_training_folder.make(folder / "results" / "qmargin", overrides="", data=folder / "DATA")
    for name in ("embedding_model.ckpt", "classifier.ckpt"):
        shutil.copy(folder / "CHECKPOINT" / name, run / "save" / "CKPT+1")
    for name in ("train.csv", "label_encoder.txt"):
        shutil.copy(folder / "SAVE" / name, run / "save")


def _faces(folder: Path, random: np.random.Generator) -> None:
    from PIL import Image

    for c in range(FACE_CLASSES):
        place = folder / "faces" / "train" / f"p{c:02}"
        place.mkdir(parents=True)
        for n in range(3):
            Image.fromarray(random.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(place / f"{n}.png")
    run = folder / "work_dirs" / "RUN"
    run.mkdir(parents=True)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(28), torch.nn.Flatten(), torch.nn.Linear(48, FACE_SIZE))
    _export(network, (3, 112, 112), run / "model.onnx")
    torch.save(network.state_dict(), run / "model.pt")
    torch.save({"state_dict_softmax_fc": {"weight": torch.randn(FACE_CLASSES, FACE_SIZE)}}, run / "checkpoint_gpu_0.pt")
    (folder / "work_dirs" / "SUBCENTERS").mkdir()
    subcenters = {"weight": torch.randn(FACE_CLASSES, 3, FACE_SIZE)}
    torch.save({"state_dict_softmax_fc": subcenters}, folder / "work_dirs" / "SUBCENTERS" / "checkpoint_gpu_0.pt")
    labels = [f"p{c:02}" for c in range(FACE_CLASSES)] * 3
    np.savez(folder / "training_faces.npz", labels=labels, embeddings=torch.randn(len(labels), FACE_SIZE).numpy())
    meta, images = folder / "faces" / "IJBC" / "meta", 24
    meta.mkdir(parents=True)
    rows = random.normal(size=(2, images, FACE_SIZE)).astype(np.float32)
    np.savez(folder / "cosine.npz", embs=rows[0], embs_f=rows[1])
    (folder / "faces" / "IJBC" / "loose_crop").mkdir()
    for n in range(images):
        picture = random.integers(0, 255, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "faces" / "IJBC" / "loose_crop" / f"{n}.jpg")
    points = " ".join(map(str, LANDMARKS.reshape(-1)))
    listed = {
        "face_tid_mid": [f"{n}.jpg {n // 2 + 1} {n}" for n in range(images)],
        "name_5pts_score": [f"{n}.jpg {points} 0.9" for n in range(images)],
        "template_pair_label": [f"{a} {b} {(a - 1) // 2 == (b - 1) // 2:d}" for a, b in combinations(range(1, 13), 2)],
    }
    for name, lines in listed.items():
        (meta / f"ijbc_{name}.txt").write_text("\n".join(lines) + "\n")
    shutil.copytree(folder / "faces" / "IJBC", folder / "IJB_release" / "IJBC")
    (folder / "backbones.py").write_text(BACKBONES.format(size=FACE_SIZE))
    settings = {"network": "r50", "rec": "faces/train"}
    log = [f"Training: 2026-01-01 10:00:00,123-: {name:<25}{value}\n" for name, value in settings.items()]
    (run / "training.log").write_text("".join(log))


def _export(network: torch.nn.Module, shape: tuple[int, ...], path: Path) -> None:
    from verimargin.files.onnx import dynamic_batch

    dynamic_batch(torch.onnx.export)(network.eval(), torch.zeros(2, *shape), str(path))


def run(words: list[str], made: set[str]) -> None:
    """Try a command in the working directory; an AssertionError says what is wrong with it.

    Args:
        made: what the page's commands have written so far. Where a page makes a file itself, its stand-in goes.
    """
    program, arguments = words[0], words[1:]
    if program == "verimargin":
        out = [*takewhile(lambda word: not word.startswith("-"), arguments)][-1:]
        for name in set(out) - made:
            if Path(name).suffix in (".npz", ".pt", ".onnx"):
                Path(name).unlink(missing_ok=True)
        made.update(out)
        _run_verimargin(arguments)
    elif program == "make":
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        assert {word for word in arguments if "=" not in word} <= set(targets), f"make has no {arguments}"
    elif "pip" in words[:3] and "install" in words:
        _check_installation(arguments)
    elif program in ("python", "torchrun"):
        _run_python(arguments)
    else:
        assert program in HARMLESS, f"no rule says how to try {program!r}"


def _run_verimargin(arguments: list[str]) -> None:
    from typer.testing import CliRunner
    from verimargin.commands.main import make_app

    if arguments[0] == "demo":  # minutes; tests/verimargin_speechbrain has it in small
        arguments = ["demo", "--help"]
    if arguments[0] == "compare":  # it trains; tests/verimargin/commands has it in small
        assert Path(arguments[1]).is_file(), arguments[1]
        arguments = ["compare", "--help"]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, f"verimargin {' '.join(arguments)}: {done.output} {done.exception!r}"


def _check_installation(arguments: list[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        for name in extra.split(","):
            assert re.search(rf"^{name} = \[", text, re.MULTILINE), f"there is no extra {name!r}"
    for option, value in pairwise(arguments):
        assert option not in ("-c", "-r", "--constraint") or (ROOT / value).is_file(), f"there is no {value}"


def _run_python(arguments: list[str]) -> None:
    if "verimargin_insightface" in arguments:
        _run_launcher(arguments[arguments.index("verimargin_insightface") + 1 :])
        return
    script = next(word for word in arguments if word.endswith(".py"))
    rest = arguments[arguments.index(script) + 1 :]
    if script in SPEECHBRAIN_SCRIPTS:
        _check_speechbrain(script, rest)
        return
    assert (ROOT / script).is_file(), f"there is no {script}"
    if script.startswith("docs/tools/"):
        done = subprocess.run([sys.executable, ROOT / script, *rest], capture_output=True, text=True)
        assert done.returncode == 0, f"{script} {' '.join(rest)}: {done.stderr[-2000:]}"
    text = (ROOT / script).read_text()
    for option in (word for word in rest if word.startswith("--")):
        assert f'"{option}"' in text, f"{script} has no {option}"


def _run_launcher(arguments: list[str]) -> None:
    script = next(word for word in arguments if word.endswith(".py"))
    assert Path(script).name in FACE_SCRIPTS, f"upstream has no {script}"
    if home := os.environ.get("ARCFACE_TORCH_HOME"):
        places = Path(home), Path(home).resolve().parent / "_evaluation_" / "ijb"
        assert any((place / Path(script).name).is_file() for place in places), f"the checkout has no {script}"
    for config in (word for word in arguments if word.startswith("configs/")):
        assert f"arcface_torch/{Path(config).name}" in hparams.names(), f"no {config} ships with the package"
    if "--ida" in arguments:
        path = os.pathsep.join([str(ROOT / "plugin"), str(ROOT / "adapters")])
        command = [sys.executable, "-m", "verimargin_insightface", *arguments]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-2000:]}"


def _check_speechbrain(script: str, arguments: list[str]) -> None:
    from speechbrain import parse_arguments

    if home := os.environ.get("SPEECHBRAIN_HOME"):
        assert Path(home, "recipes/VoxCeleb/SpeakerRec", script).is_file(), f"the checkout has no {script}"
    recipe, _, overrides = parse_arguments(arguments)
    name = Path(recipe).name
    if name in STOCK_RECIPES:
        known = {"data_folder", "output_folder", "seed"}
    else:
        text = hparams.path(name).read_text()
        known = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    given = set(re.findall(r"^(\w+):", overrides, re.MULTILINE)) if isinstance(overrides, str) else set(overrides)
    assert given <= known, f"{name} has no {json.dumps(sorted(given - known))}"
