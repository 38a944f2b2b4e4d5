import shutil
import sys
from itertools import combinations

import cv2
import numpy as np
import pytest
import small_checkpoint
import torch
from small_trials import run as run_command
from verimargin.commands import evaluate as module
from verimargin.commands.evaluate import evaluate
from verimargin.files.embeddings import read_embeddings
from verimargin_insightface.commands.embed_faces import embed_faces
from verimargin_insightface.commands.evaluation import open_run
from verimargin_insightface.commands.pack import pack_folder
from verimargin_insightface.face_trials import LANDMARKS
from verimargin_insightface.verification_set import write_bin

BACKBONES = """
import torch
def get_model(name, dropout, fp16, num_features=512):
    assert name == "tiny"
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, num_features))
"""
SIZE, TRAINED, TESTED, EACH = 4, [f"a{n}" for n in range(small_checkpoint.CLASSES)], ["p", "q", "r"], 3


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(str(path.name).encode() + path.parent.name.encode())).integers(
        0, 256, (2, 2, 3)
    )
    assert cv2.imwrite(str(path), cv2.resize(values.astype(np.uint8), (112, 112)))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The folder `run` of a run, with a training set `train` and test images `test`, in arcface_torch's folder."""
    for folder, people in (("train", TRAINED), ("test", TESTED)):
        for person in people:
            for n in range(EACH):
                draw(tmp_path / folder / person / f"{n}.png")
    names = [f"{person}/{n}.png" for person in TESTED for n in range(EACH)]
    pairs = [f"{int(a[0] == b[0])} {a} {b}" for a, b in combinations(names, 2)]
    (tmp_path / "list.txt").write_text("\n".join(pairs) + "\n")
    (tmp_path / "backbones.py").write_text(BACKBONES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backbones", raising=False)
    small_checkpoint.write(tmp_path / "run", small_checkpoint.whole(), 2)
    torch.manual_seed(0)
    torch.save({"2.weight": torch.randn(SIZE, 12), "2.bias": torch.randn(SIZE)}, tmp_path / "run" / "model.pt")
    log = [("network", "tiny"), ("rec", "train"), ("embedding_size", SIZE)]
    lines = [f"Training: 2026-01-01 10:00:00,123-: {name:<25}{value}\n" for name, value in log]
    (tmp_path / "run" / "training.log").write_text("".join(lines))
    monkeypatch.setattr(module, "open_run", open_run)
    return tmp_path


def do(trained, *options, out="out", trials="list.txt", data="test"):
    given = ["--trials", trained / trials, "--k", "3", "--no-intervals", *(["--data", trained / data] if data else [])]
    return run_command(evaluate, trained / "run", trained / out, *given, *options)


def methods(folder):
    return [line.split(",")[0].split(" (")[0] for line in (folder / "table.csv").read_text().splitlines()[1:]]


def test_from_a_training_to_a_report(trained):
    assert do(trained).output.startswith(f"arcface_torch: {trained / 'run' / 'model.pt'}, network tiny\n")
    tests, cohort, anchors = (read_embeddings(trained / "out" / f"{name}.npz") for name in ("test", "train", "anchors"))
    assert tests.ids[:2] == ["p/0.png", "p/1.png"]
    assert cohort.ids == [f"{person}/{n}.png" for person in TRAINED for n in range(EACH)]
    weight = small_checkpoint.whole()["state_dict_softmax_fc"]["weight"]
    assert anchors.ids == TRAINED
    torch.testing.assert_close(anchors.vectors, weight)  # of both ranks
    assert set(methods(trained / "out" / "report")) == {"cosine", "s-norm", "adaptive s-norm", '"IDA-R', '"IDA-L'}
    for name, folder in (("train", "train"), ("test", "test")):
        shutil.copy(trained / "run" / "model.pt", trained / "model.pt")
        (trained / "backbones.py").write_text(BACKBONES.replace("512", str(SIZE)))
        sys.modules.pop("backbones", None)
        embed_faces(trained / folder, trained / "model.pt", trained / f"{name}_by_hand.npz", network="tiny")
        by_hand, found = (read_embeddings(trained / p) for p in (f"{name}_by_hand.npz", f"out/{name}.npz"))
        assert (found.ids, found.encoder) == (by_hand.ids, by_hand.encoder)
        torch.testing.assert_close(found.vectors, by_hand.vectors)


def test_a_packed_training_set_and_a_run_without_checkpoints(trained):
    pack_folder(trained / "train", trained / "packed")
    for file in (trained / "run").glob("checkpoint*"):
        file.unlink()
    text = do(trained, "--train", trained / "packed", "--per-identity", "2").output.replace("\n", " ")
    assert "no prototypes: the run kept none, because config.save_all_states was not True" in text
    anchors = read_embeddings(trained / "out" / "anchors.npz")
    assert sorted(anchors.ids, key=int) == list(map(str, range(len(TRAINED))))
    assert len(read_embeddings(trained / "out" / "train.npz").ids) == 2 * len(TRAINED)


def test_the_prototypes_of_a_packed_set_are_known_by_number(trained):
    pack_folder(trained / "train", trained / "packed")
    shutil.copytree(trained / "test" / "p", trained / "test" / "3")  # a name that is no class number
    do(trained, "--train", trained / "packed")
    assert read_embeddings(trained / "out" / "anchors.npz").ids == list(map(str, range(len(TRAINED))))


def test_a_bin_of_pairs(trained):
    images = [(trained / "test" / p / f"{n}.png").read_bytes() for p in TESTED for n in range(2)]
    places = [(0, 1), (2, 3), (4, 5), (0, 2), (1, 4), (3, 5), (0, 1)]
    same = [True] * 3 + [False] * 3 + [True]
    write_bin(trained / "x.bin", [images[n] for pair in places for n in pair], same)
    do(trained, trials="x.bin", data="")
    assert len(read_embeddings(trained / "out" / "test.npz").ids) == 6
    assert len((trained / "out" / "trials.txt").read_text().splitlines()) == 6
    assert "cosine" in methods(trained / "out" / "report")


def test_an_ijb_protocol(trained):
    meta, crops = trained / "IJBC" / "meta", trained / "IJBC" / "loose_crop"
    meta.mkdir(parents=True)
    names = [(person, n) for person in TESTED for n in range(EACH)]
    for person, n in names:
        crops.mkdir(exist_ok=True)
        shutil.copy(trained / "test" / person / f"{n}.png", crops / f"{person}{n}.png")
    points = " ".join(map(str, LANDMARKS.reshape(-1)))
    media = [(f"{p}{n}.png", 10 * TESTED.index(p) + min(n, 1), n) for p, n in names]  # two templates of each person
    (meta / "ijbc_name_5pts_score.txt").write_text("".join(f"{name} {points} 0.5\n" for name, _, _ in media))
    (meta / "ijbc_face_tid_mid.txt").write_text("".join(f"{name} {t} {m}\n" for name, t, m in media))
    pairs = [(a, b) for a, b in combinations(sorted({t for _, t, _ in media}), 2)]
    lines = "".join(f"{a} {b} {int(a // 10 == b // 10)}\n" for a, b in pairs)
    (meta / "ijbc_template_pair_label.txt").write_text(lines)
    do(trained, trials="IJBC/meta/ijbc_template_pair_label.txt", data="")
    do(trained, out="listed")
    scores, single = (np.load(trained / name / "report" / "scores.npz") for name in ("out", "listed"))
    place = {name: n for n, name in enumerate(scores["ids"])}
    pair = (scores["enrol"] == place["0"]) & (scores["test"] == place["10"])  # templates of one image each
    ids = {name: n for n, name in enumerate(single["ids"])}
    expected = (single["enrol"] == ids["p/0.png"]) & (single["test"] == ids["q/0.png"])
    np.testing.assert_allclose(scores["cosine"][pair], single["cosine"][expected], atol=1e-5)
    assert set(methods(trained / "out" / "report")) == {"cosine", "s-norm", "adaptive s-norm", '"IDA-R', '"IDA-L'}


def test_without_a_training_set_the_prototypes_remain(trained):
    shutil.rmtree(trained / "train")
    text = do(trained).output.replace("\n", " ")
    assert "No s-norm and no IDA-L, which need training samples: the training set train does not exist" in text
    assert set(methods(trained / "out" / "report")) == {"cosine", '"IDA-R'}


def test_mistakes_are_named(trained):
    (trained / "test" / "q" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"list\.txt names q/1\.png, not in .*test"):
        do(trained)
    (trained / "run" / "training.log").unlink()
    with pytest.raises(ValueError, match=r"has no training\.log that tells the network: give it as --network"):
        do(trained)
    with pytest.raises(ValueError, match="does not exist: give the path"):
        do(trained, "--network", "tiny", trials="none.txt")
    (trained / "run" / "model.pt").unlink()
    with pytest.raises(ValueError, match=r"has no model\.pt: wait until the training has finished an epoch"):
        do(trained)
    assert not (trained / "out").exists()
    assert open_run(trained / "train", "") is None


def test_a_checkpoint_of_which_a_rank_is_missing(trained):
    (trained / "run" / "checkpoint_gpu_0.pt").unlink()
    text = do(trained).output.replace("\n", " ")
    assert "no prototypes: " in text
    assert "checkpoint_gpu_0.pt is missing" in text
