"""The recipe end to end, through HyperPyYAML and SpeechBrain's Brain: synthetic speech, and real speech."""

import shutil

import numpy as np
import pytest
import torch
from small_speech import TINY
from verimargin import metrics
from verimargin_speechbrain import experiment
from verimargin_speechbrain.run_guard import MARK


@pytest.fixture
def corpus(synthetic_corpus):
    return synthetic_corpus


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path):
    def run(name, *epochs):
        for number in epochs:  # the last one goes on from the checkpoint of the one before
            brain = experiment.train(
                corpus, tmp_path / name, "qmargin", 1, number_of_epochs=number, step_size=4, **TINY
            )
        return experiment.score(brain, corpus)[0], (tmp_path / name / "train_log.txt").read_text()

    whole, log = run("whole", 2)
    resumed, resumed_log = run("resumed", 1, 2)
    assert resumed_log == log
    np.testing.assert_allclose(resumed, whole, atol=1e-6)


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_checkpoint_that_was_not_finished_is_dropped(corpus, tmp_path, damage):
    def run(epochs):
        return experiment.train(corpus, tmp_path, "qmargin", 1, number_of_epochs=epochs, **TINY)

    run(1)
    (good,) = (tmp_path / "save").glob("CKPT*")
    broken = good.with_name("CKPT+2099-01-01+00-00-00+00")  # the newest, which SpeechBrain would recover
    shutil.copytree(good, broken)
    (broken / "CKPT.yaml").write_text((good / "CKPT.yaml").read_text().replace("unixtime: 1", "unixtime: 4"))
    if damage == "missing":
        (broken / "optimizer.ckpt").unlink()
        (broken / MARK).unlink()
    else:
        (broken / "classifier.ckpt").write_bytes((good / "classifier.ckpt").read_bytes()[:100])
    run(2)
    assert not broken.exists()
    assert (tmp_path / "train_log.txt").read_text().count("epoch: ") == 2


def train_on_real_speech(data, output, **recipe):
    brain = experiment.train(data, output, "qmargin", 1986, **recipe)
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
        experiment.train(corpus, tmp_path / "long", "qmargin", 1, sentence_len=4.0, **TINY)


KAPPAFACE = {"recipe": "train_ecapa_small_kappaface.yaml", "estimator": "memory"}


def test_a_resumed_kappaface_equals_an_uninterrupted_one_byte_for_byte(corpus, tmp_path):
    """The margins adapt from one memory vector per sample; what begins and each epoch are told."""
    told = []

    def run(name, *epochs):
        for number in epochs:
            brain = experiment.train(
                corpus,
                tmp_path / name,
                "kappaface",
                1,
                begins=lambda *done: told.append(done),
                steps=lambda batches, title: told.append((title, len(batches))) or batches,
                number_of_epochs=number,
                step_size=4,
                **KAPPAFACE,
                **TINY,
            )
        return brain

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, resumed = run("whole", 2), run("resumed", 1, 2)
    finally:
        torch.set_num_threads(threads)
    assert told[:3] == [(0, None), ("epoch 1 of 2", 4), ("epoch 2 of 2", 4)]
    (checkpoint,) = (tmp_path / "resumed" / "save").glob("CKPT*")
    assert told[5][0] == 1
    assert told[5][1].parent == checkpoint.parent
    assert told[6:] == [("epoch 2 of 2", 4)]
    states = [brain.modules.state_dict() for brain in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    tensors = [name for name, value in states[0].items() if isinstance(value, torch.Tensor)]
    assert any(name.startswith("kappa.") for name in tensors)
    assert [name for name in tensors if not torch.equal(states[0][name], states[1][name])] == []
    tracker = whole.modules.kappa.tracker
    assert int(tracker.epoch) == 2  # an epoch ends when its validation begins
    assert 0 < float(tracker.psi.min()) < float(tracker.psi.max()) < 1


def test_embeddings_are_those_of_single_recordings(corpus, tmp_path):
    brain = experiment.train(corpus, tmp_path, "arcface", 1, number_of_epochs=1, **TINY)
    assert 0 < brain.step_seconds < 60
    names = ["id10001/s00/00000.wav", "id10002/s00/00001.wav"]
    whole, cut = experiment.embed(brain, corpus, names), experiment.embed(brain, corpus, names[:1], 16_000)
    assert torch.equal(whole[1:], experiment.embed(brain, corpus, names[1:]))
    assert whole.shape == (2, TINY["emb_dim"])
    assert not torch.allclose(cut, whole[:1])
    assert torch.equal(cut, experiment.embed(brain, corpus, names[:1], 16_000))
