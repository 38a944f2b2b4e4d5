import re
from itertools import combinations

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from small_training_folder import make
from small_trials import run as run_command
from speechbrain.dataio.encoder import CategoricalEncoder
from verimargin.commands import evaluate as module
from verimargin.commands.evaluate import evaluate
from verimargin.files.embeddings import read_embeddings
from verimargin_speechbrain.commands import embed_speech as embed
from verimargin_speechbrain.commands.evaluation import open_run

TRAINED, TESTED = ["id5", "id1", "id4", "id2", "id3"], ["id7", "id8", "id9"]


def record(folder, name, seconds=1.0):
    path = folder / "wav" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(name.encode())).normal(scale=0.1, size=int(16000 * seconds))
    soundfile.write(path, noise, 16000)
    return path


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run with a random model, its corpus in `data`, and a trial list of other speakers of it."""
    run, data = make(tmp_path / "run", overrides="channels: 8\nemb_dim: 4\nout_n_neurons: 5"), tmp_path / "run" / "data"
    checkpoint = run / "save" / "CKPT+1"
    torch.manual_seed(0)
    made = load_hyperpyyaml(open_run(run, "").folder.recipe())
    torch.save(made["embedding_model"].state_dict(), checkpoint / "embedding_model.ckpt")
    torch.save({"weight": torch.randn(5, 4)}, checkpoint / "classifier.ckpt")
    lines = ["ID,duration,wav,start,stop,spk_id"]
    for speaker in TRAINED:
        for n in range(3):
            path = record(data, f"{speaker}/s/{n}.wav")
            lines.append(f"{speaker}--{n},1.0,{path},1000,15000,{speaker}")
    (run / "save" / "train.csv").write_text("\n".join(lines) + "\n")
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(TRAINED)
    encoder.save(run / "save" / "label_encoder.txt")
    names = [f"{speaker}/s/{n}.wav" for speaker in TESTED for n in range(3)]
    for n, name in enumerate(names):
        record(data, name, 0.5 + n / 10)
    pairs = [f"{int(a[:3] == b[:3])} {a} {b}" for a, b in combinations(names, 2)]
    (tmp_path / "list.txt").write_text("\n".join(pairs) + "\n")
    monkeypatch.setattr(module, "open_run", open_run)
    return run


def do(trained, *options, out="out"):
    given = ["--trials", trained.parent / "list.txt", "--k", "3", "--no-intervals", *options]
    return run_command(evaluate, trained, trained.parent / out, *given)


def test_from_a_training_to_a_report(trained):
    text = do(trained).output
    assert text.startswith(f"SpeechBrain: {trained / 'save' / 'CKPT+1' / 'embedding_model.ckpt'}\n")
    out = trained.parent / "out"
    tests, cohort, anchors = (read_embeddings(out / f"{name}.npz") for name in ("test", "train", "anchors"))
    assert tests.sizes.tolist() == pytest.approx([0.5 + n / 10 for n in range(9)])
    assert cohort.ids == [f"{speaker}--{n}" for speaker in TRAINED for n in range(3)]
    assert anchors.ids == TRAINED
    assert tests.encoder == cohort.encoder == anchors.encoder != ""
    table = (out / "report" / "table.csv").read_text()
    for method in ("cosine", "s-norm", "adaptive s-norm", "IDA-R", "IDA-L"):
        assert method in table
    lines = (out / "report" / "scores_cosine.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [
        line.split()[1:] for line in (trained.parent / "list.txt").read_text().splitlines()
    ]


def test_the_embeddings_are_those_of_embed_speech(trained):
    do(trained)
    (trained.parent / "recipe.yaml").write_text(open_run(trained, "").folder.recipe())
    embed.embed_speech(trained.parent / "recipe.yaml", [trained / "save" / "train.csv"], trained.parent / "train.npz")
    by_hand = read_embeddings(trained.parent / "train.npz")
    found = read_embeddings(trained.parent / "out" / "train.npz")
    assert (found.ids, found.labels, found.encoder) == (by_hand.ids, by_hand.labels, by_hand.encoder)
    torch.testing.assert_close(found.vectors, by_hand.vectors, rtol=0, atol=0)


def test_a_corpus_that_has_moved(trained):
    (trained / "data").rename(trained.parent / "moved")
    with pytest.raises(ValueError, match="has no folder 'wav'"):
        do(trained)
    text = do(trained, "--data", trained.parent / "moved").output.replace("\n", " ")
    assert "No s-norm and no IDA-L, which need training samples" in text
    assert "IDA-R" in (trained.parent / "out" / "report" / "table.csv").read_text()  # the prototypes are there
    do(trained, "--data", trained.parent / "moved", "--train", trained.parent / "moved")
    assert "IDA-L" in (trained.parent / "out" / "report" / "table.csv").read_text()
    with pytest.raises(ValueError, match=r"elsewhere/wav/id5/s/0\.wav of .*train\.csv does not exist"):
        do(trained, "--data", trained.parent / "moved", "--train", trained.parent / "elsewhere", out="x")


def test_without_a_classifier_the_anchors_are_training_recordings(trained):
    (trained / "save" / "CKPT+1" / "classifier.ckpt").unlink()
    assert "and no prototypes: " in do(trained).output
    assert sorted(read_embeddings(trained.parent / "out" / "anchors.npz").ids) == sorted(TRAINED)


def test_mistakes_are_named(trained):
    (trained.parent / "faces.bin").touch()
    cases = [
        (["--network", "r50"], r"--network is for a model\.pt of arcface_torch"),
        (["--trials", trained.parent / "faces.bin"], "is a set of faces, but the checkpoint is SpeechBrain's"),
        (["--data", trained.parent], "has no folder 'wav'"),
        (["--k", "9"], "k is 9"),
    ]
    for n, (options, message) in enumerate(cases):
        with pytest.raises(ValueError, match=message):
            do(trained, *options, out=f"out{n}")
    (trained / "data" / "wav" / "id8" / "s" / "1.wav").write_bytes(b"none")
    with pytest.raises(ValueError, match=re.escape("1.wav is no recording that can be read")):
        do(trained)
    (trained / "data" / "wav" / "id8" / "s" / "1.wav").unlink()
    with pytest.raises(ValueError, match=r"list\.txt names id8/s/1\.wav, which is not in "):
        do(trained)
    (trained / "save" / "train.csv").unlink()
    assert not (trained.parent / "out").exists()


def test_a_run_of_another_toolkit_is_left_to_it(tmp_path):
    (tmp_path / "model.pt").touch()
    assert open_run(tmp_path, "r50") is None
