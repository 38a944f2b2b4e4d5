import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import verimargin as vm
from installed_command import installed, verimargin_command
from verimargin.files.embeddings import read_embeddings
from verimargin.files.networks import fingerprint

pytest.importorskip("speechbrain", reason="SpeechBrain is not installed: pip install 'verimargin[speechbrain]'")

import speech_model
from speechbrain.inference.speaker import SpeakerRecognition
from verimargin_speechbrain.corpus import speaker_of

CORPUS = {"train_speakers": 12, "test_speakers": 12, "utterances": 2, "test_utterances": 2}
RECIPE = {"number_of_epochs": 1, "channels": 8, "emb_dim": 16, "sentence_len": 1.0, "batch_size": 8}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The folder with the unpacked model, and the zip file."""
    out = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_model, "DEVELOPMENT", 9)
        patch.setattr(speech_model, "TESTED", 3)
        patch.setattr(speech_model, "TO_LISTEN", 2)
        packed = speech_model.make_model(out, CORPUS, RECIPE)
        before = packed.read_bytes()
        assert speech_model.make_model(out, CORPUS, RECIPE).read_bytes() == before  # nothing is made again
    user = tmp_path_factory.mktemp("user")
    zipfile.ZipFile(packed).extractall(user)
    return user


@installed
def test_the_commands_of_its_readme(release):
    text = (release / "speech_model" / "README.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("    verimargin")]
    assert [words[0] for words in commands] == ["score", "embed-speech"]
    score = ["1e-1" if word == "1e-3" else word for word in commands[0]]  # 15 trials
    for words in (score, commands[1]):
        done = verimargin_command(*words, cwd=release)
        assert done.returncode == 0, done.stderr
    report = (release / "report" / "report.md").read_text()
    assert "IDA-L" in report
    assert "calibrat" in report
    mine, ours = (read_embeddings(release / name) for name in ("mine.npz", "speech_model/test.npz"))
    assert len(mine.ids) == 4
    places = [ours.ids.index(name) for name in mine.ids]
    torch.testing.assert_close(mine.vectors, ours.vectors[places], rtol=0, atol=1e-6)


def test_nobody_is_in_two_of_its_parts(release):
    folder = release / "speech_model"
    anchors, cohort, tested = (read_embeddings(folder / f"{name}.npz") for name in ("anchors", "cohort", "test"))
    assert len(anchors.ids) == 12
    assert sorted(cohort.labels) == sorted(anchors.ids)
    assert len(set(tested.labels)) == 3
    assert not set(tested.labels) & set(anchors.ids)
    assert {part.encoder for part in (anchors, cohort, tested)} == {fingerprint(folder / "embedding_model.ckpt")}
    names = {name for line in (folder / "trials.txt").read_text().splitlines() for name in line.split()[1:]}
    assert names == set(tested.ids)


def test_speechbrains_own_interface_loads_it(release, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # its default is to leave links in the working directory
    folder = release / "speech_model"
    model = SpeakerRecognition.from_hparams(str(folder))
    ours = read_embeddings(folder / "test.npz")
    wavs = sorted((folder / "wav").rglob("*.wav"))
    for wav in wavs:
        name = wav.relative_to(folder / "wav").as_posix()
        samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])[None]
        found = model.encode_batch(samples)[0, 0]
        np.testing.assert_allclose(found, ours.vectors[ours.ids.index(name)], atol=1e-5)
    assert len({speaker_of(wav.relative_to(folder / "wav").as_posix()) for wav in wavs}) == 2


def test_the_tour_scores_it(release, monkeypatch, capsys):
    tour = Path(speech_model.__file__).with_name("tour.ipynb")
    cells = ["".join(cell["source"]) for cell in json.loads(tour.read_text())["cells"] if cell["cell_type"] == "code"]
    (cell,) = (cell for cell in cells if "speech_model" in cell)
    monkeypatch.chdir(release)
    exec(cell, {"torch": torch, "vm": vm, "F": torch.nn.functional})
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert shown[0].startswith("cosine")
    assert shown[1].startswith("IDA-R (k 10, tau 1)")
    assert "accepted for a FAR of 1 %" in shown[1]
