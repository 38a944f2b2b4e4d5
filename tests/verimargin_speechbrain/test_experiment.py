"""The recipe end to end, through HyperPyYAML and SpeechBrain's Brain: synthetic speech, and real speech."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
from verimargin import metrics
from verimargin_speechbrain import experiment, synthesis
from verimargin_speechbrain.commands import demo

TINY = {"channels": 16, "emb_dim": 24, "lr": 0.004, "batch_size": 8}
CORPUS = {"train_speakers": 6, "test_speakers": 4, "utterances": 6, "test_utterances": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("synthetic") / "corpus")


def make_corpus(folder):
    """In a separate process, because some of eSpeak's voices depend on what the process has said before."""
    code = "import sys, verimargin_speechbrain.synthesis as s; from pathlib import Path; "
    code += f"print(len(list(s.make_corpus(Path(sys.argv[1]), **{CORPUS}, seed=0))))"
    made = subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True)
    assert made.stdout == "10\n"
    return folder


def test_speakers_differ_and_the_corpus_is_the_same_again(corpus, tmp_path):
    again = make_corpus(tmp_path / "corpus")
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*.*"))
    assert len(files) == 6 * 6 + 4 * 3 + 1
    assert all((corpus / file).read_bytes() == (again / file).read_bytes() for file in files)
    first = [experiment.read_wav(corpus / "wav" / f"id{10001 + k}" / "s00" / "00000.wav") for k in range(6)]
    assert all(len(x) == 3 * 16_000 and 0.4 < float(x.abs().max()) <= 0.5 for x in first)


def test_an_interrupted_corpus_does_not_look_finished(tmp_path):
    made = synthesis.make_corpus(tmp_path / "corpus", **CORPUS, seed=0)
    next(made)
    made.close()
    assert not (tmp_path / "corpus").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path):
    def run(name, *epochs):
        for number in epochs:  # the last one goes on from the checkpoint of the one before
            brain = experiment.train(
                corpus, tmp_path / name, "qmargin", 1, progress=False, number_of_epochs=number, step_size=4, **TINY
            )
        return experiment.score(brain, corpus)[0], (tmp_path / name / "train_log.txt").read_text()

    whole, log = run("whole", 2)
    resumed, resumed_log = run("resumed", 1, 2)
    assert resumed_log == log
    np.testing.assert_allclose(resumed, whole, atol=1e-6)


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_checkpoint_that_was_not_finished_is_dropped(corpus, tmp_path, damage):
    def run(epochs):
        return experiment.train(corpus, tmp_path, "qmargin", 1, progress=False, number_of_epochs=epochs, **TINY)

    run(1)
    (good,) = (tmp_path / "save").glob("CKPT*")
    broken = good.with_name("CKPT+2099-01-01+00-00-00+00")  # the newest, which SpeechBrain would recover
    shutil.copytree(good, broken)
    (broken / "CKPT.yaml").write_text((good / "CKPT.yaml").read_text().replace("unixtime: 1", "unixtime: 4"))
    if damage == "missing":
        (broken / "optimizer.ckpt").unlink()
    else:
        (broken / "classifier.ckpt").write_bytes((good / "classifier.ckpt").read_bytes()[:100])
    run(2)
    assert not broken.exists()
    assert (tmp_path / "train_log.txt").read_text().count("epoch: ") == 2


def test_the_demo_reports_resumes_and_refuses_other_settings(tmp_path, capsys):
    output = tmp_path / "demo"
    results = demo.run(output, 0, CORPUS, number_of_epochs=1, **TINY)
    report = (output / "report.md").read_text()
    assert all(title in report for title in demo.LOSSES.values())
    assert (output / "det.png").read_bytes()[:4] == b"\x89PNG"
    with open(output / "table.csv", newline="") as file:
        table = {(row["method"], row["figure"]): row for row in csv.DictReader(file)}
    for loss, title in demo.LOSSES.items():
        row, interval = table[title, "EER %"], results[title].figures["EER %"].interval
        scores, same = (np.load(output / loss / "scores.npz")[key] for key in ("scores", "same"))
        assert float(row["value"]) == pytest.approx(100 * metrics.eer(scores[same], scores[~same])[0], rel=1e-5)
        assert interval.low <= interval.high == pytest.approx(float(row["high"]), rel=1e-5)
    assert not list(output.rglob("*partial*"))
    (output / "qmargin" / "scores.npz").unlink()  # as if interrupted: only this is done again
    kept = (output / "arcface" / "scores.npz").stat().st_mtime_ns
    before = (output / "table.csv").read_text()
    demo.run(output, 0, CORPUS, number_of_epochs=1, **TINY)
    assert (output / "arcface" / "scores.npz").stat().st_mtime_ns == kept
    assert (output / "table.csv").read_text() == before
    with pytest.raises(ValueError, match="holds a demo with other settings"):
        demo.run(output, 1, CORPUS, number_of_epochs=1, **TINY)
    with pytest.raises(ValueError, match="seed is -1"):
        demo.run(tmp_path / "bad", -1, CORPUS)
    assert not (tmp_path / "bad").exists()
    with pytest.raises(ValueError, match=r"settings\.json is a file"):
        demo.run(output / "settings.json", 0, CORPUS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        demo.run(tmp_path / "full", 0, CORPUS)


def train_on_real_speech(data, output, **recipe):
    brain = experiment.train(data, output, "qmargin", 1986, progress=False, **recipe)
    scores, trials = experiment.score(brain, data)
    same = np.array([trial.same for trial in trials])
    assert len(trials) == 4950
    return brain.wrong / brain.seen, metrics.eer(scores[same], scores[~same])[0]


def test_real_speech_in_short(voxceleb_layout, tmp_path):
    """Three epochs of a small model over 227 real speakers: far better than chance on recordings held out."""
    error, eer = train_on_real_speech(
        voxceleb_layout, tmp_path, number_of_epochs=3, channels=32, emb_dim=64, sentence_len=1.0, lr=0.004
    )
    assert error < 0.9  # chance is 0.996
    assert eer < 0.35


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_speech(voxceleb_layout, tmp_path):
    """The recipe as it ships tells ten other real speakers apart."""
    error, eer = train_on_real_speech(voxceleb_layout, tmp_path)
    assert error < 0.05
    assert eer < 0.06


def test_errors_name_what_is_missing(corpus, tmp_path):
    with pytest.raises(ValueError, match="wav does not exist"):
        experiment.read_wav(tmp_path / "none.wav")
    with pytest.raises(ValueError, match="has 48000 samples: training cuts 64000"):
        experiment.train(corpus, tmp_path / "long", "qmargin", 1, progress=False, sentence_len=4.0, **TINY)
