import numpy as np
import pytest
import torch

pytest.importorskip("speechbrain", reason="SpeechBrain is not installed: pip install 'verimargin[speechbrain]'")

import slow_start
import soundfile
import speech
import speech_grid
from verimargin.commands.comparison.losses import read_loss

SMALL = {**speech.SMALL, "channels": 8, "emb_dim": 16, "batch_size": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Noises of a colour for each of twelve speakers, four of whom are tested, three seconds each."""
    folder, random = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    names = [f"id{10 + s}/a/{n}.wav" for s in range(12) for n in range(5)]
    frequency = np.fft.rfftfreq(48_000, 1 / 16_000)
    for name in names:
        path = folder / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        peak = 300.0 * (int(name[2:4]) - 9)
        colour = np.exp(-(((frequency - peak) / 400.0) ** 2)) + 0.05
        wave = np.fft.irfft(np.fft.rfft(random.normal(size=48_000)) * colour)
        soundfile.write(path, 0.3 * wave / np.abs(wave).max(), 16_000)
    speech.write_trials(folder / "veri_test.txt", speech.itertools.combinations(names[40:], 2))
    return speech_grid.Corpus(folder, SMALL)


def test_the_features_are_those_of_the_recordings(corpus):
    assert corpus.trained.shape[1:] == (301, 40)
    assert len(corpus.trained) == len(corpus.label) == 36  # every tenth one is for validation
    assert len(corpus.tested) == len(corpus.tested_label) == 20
    assert corpus.people == [f"id{10 + s}" for s in range(8)]


def test_an_epoch_has_a_second_of_each_recording(corpus):
    pieces, labels = zip(*corpus.batches(8, 1, torch.Generator().manual_seed(0)))
    assert [len(piece) for piece in pieces] == [8, 8, 8, 8, 4]
    assert torch.equal(torch.cat(labels).sort().values, corpus.label.sort().values)
    for piece, label in zip(torch.cat(pieces), torch.cat(labels)):
        windows = corpus.trained[corpus.label == label].float().unfold(1, speech_grid.FRAMES, 1).transpose(2, 3)
        assert (windows == piece).flatten(2).all(2).any()


def test_the_figure_is_that_of_all_pairs_of_the_tested_recordings(corpus, monkeypatch):
    seen = []

    def figure(same, other, far):
        seen.append((len(same), len(other), far, float(same.mean() - other.mean())))
        return 0.5, 0.0

    monkeypatch.setattr(speech_grid.metrics, "tar_at_far", figure)
    loss = read_loss("ArcFace", {"loss": "arcface", "scale": 10, "margin": 0.1})
    assert [speech_grid.development_figure(corpus, loss, 1, seed) for seed in (0, 0, 1)] == [0.5] * 3
    assert seen[0] == seen[1] != seen[2]
    assert seen[0][:3] == (40, 150, 1e-3)


def test_a_slow_start_is_judged_by_its_last_steps(corpus, monkeypatch):
    lengths = []

    def training(corpus, recipe, loss, epochs):
        lengths.append(float(recipe["classifier"].weight.detach().norm()))
        wrong, right = torch.tensor([1, 1]), torch.tensor([0, 1])
        yield from [(torch.eye(2), wrong)] * 9
        yield from [(torch.eye(2), right)] * slow_start.LAST

    monkeypatch.setattr(slow_start, "training", training)
    loss = read_loss("ArcFace", {"loss": "arcface", "scale": 10, "margin": 0.1})
    assert [slow_start.nearest(corpus, loss, length) for length in (1.0, 0.1)] == [1.0, 1.0]
    assert lengths[1] == pytest.approx(0.1 * lengths[0])


def test_a_slow_start_is_a_share_of_the_samples(corpus):
    loss = read_loss("ArcFace", {"loss": "arcface", "scale": 10, "margin": 0.1})
    found = slow_start.nearest(corpus, loss, 0.1)
    assert found == slow_start.nearest(corpus, loss, 0.1)
    assert 1 / 8 < found < 1
