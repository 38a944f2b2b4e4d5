from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from verimargin.files.anchors import read_anchors
from verimargin.files.embeddings import write_embeddings
from verimargin.files.networks import fingerprint

pytest.importorskip("speechbrain", reason="SpeechBrain is not installed: pip install 'verimargin[speechbrain]'")

import generated_anchors
from generated_anchors import fit_generator


def samples(count=400):
    """Two numbers for each row of 4 x 3: a plane in 12 dimensions, off the origin, with a little noise."""
    random = torch.Generator().manual_seed(0)
    plane = torch.randn(2, 12, generator=random)
    noise = 0.05 * torch.randn(count, 12, generator=random)
    return (5 + torch.randn(count, 2, generator=random) @ plane + noise).view(count, 4, 3)


def test_what_it_generates_is_distributed_as_the_samples():
    history = []
    generator = fit_generator(
        samples(), 4, 32, epochs=50, learning_rate=5e-3, on_epoch=lambda *epoch: history.append(epoch)
    )
    assert [epoch for epoch, _ in history] == list(range(1, 51))
    assert history[-1][1] < history[0][1] - 10  # nats per sample
    with torch.no_grad():
        made = generator(torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))).flatten(1)
    real = samples(2000).flatten(1)
    assert made.shape == (2000, 12)
    torch.testing.assert_close(made.mean(0), real.mean(0), atol=0.3, rtol=0)
    correlation = torch.corrcoef(torch.stack([made.T.cov().flatten(), real.T.cov().flatten()]))[0, 1]
    assert correlation > 0.95
    plane = torch.linalg.svd(real - real.mean(0), full_matrices=False).Vh[:2]
    off = made - made.mean(0) - (made - made.mean(0)) @ plane.T @ plane
    assert off.square().mean() < 0.1 * (made - made.mean(0)).square().mean()


def test_a_seed_gives_the_same_weights_and_leaves_the_random_state():
    before = torch.get_rng_state()
    first, second = (fit_generator(samples(50), 2, 8, epochs=3, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(torch.ones(1, 2)), second(torch.ones(1, 2)))
    assert not torch.equal(fit_generator(samples(50), 2, 8, epochs=3)(torch.ones(1, 2)), first(torch.ones(1, 2)))


def test_constant_numbers_and_files(tmp_path):
    fixed = samples(50).clone()
    fixed[:, 0] = 3.0
    generator = fit_generator(fixed, 2, 8, epochs=20)
    torch.testing.assert_close(generator(torch.zeros(1, 2))[0, 0], torch.full((3,), 3.0), atol=0.5, rtol=0)
    torch.jit.save(torch.jit.trace(generator, torch.zeros(2, 2)), tmp_path / "generator.pt")
    latents = torch.randn(7, 2)
    torch.testing.assert_close(torch.jit.load(tmp_path / "generator.pt")(latents), generator(latents))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_generator(samples()[:1]), r"shape \(1, 4, 3\)"),
        (lambda: fit_generator(samples().long()), r"torch\.int64"),
        (lambda: fit_generator(samples().log() * 0 / 0), "the samples hold nan or infinite numbers"),
        (lambda: fit_generator(samples(), 0), "latent_size is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def corpus(tmp_path):
    """Noise of three speakers, of whom the last is tested: 0.5 s is 51 frames of 10 ms."""
    random = np.random.default_rng(0)
    for who in ("id1", "id2", "id3"):
        folder = tmp_path / "wav" / who / "a"
        folder.mkdir(parents=True)
        for n in range(2):
            soundfile.write(folder / f"{n}.wav", 0.1 * random.standard_normal(8000), 16000)
    (tmp_path / "veri_test.txt").write_text("1 id3/a/0.wav id3/a/1.wav\n")
    return tmp_path


@pytest.fixture
def brain():
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.processing.features import InputNormalization

    torch.manual_seed(0)
    encoder = ECAPA_TDNN(8, lin_neurons=6, channels=[8] * 5, attention_channels=4, res2net_scale=2, se_channels=4)
    modules = {"compute_features": Fbank(n_mels=8), "embedding_model": encoder}
    modules["mean_var_norm"] = InputNormalization(norm_type="sentence", std_norm=False)
    return SimpleNamespace(modules=nn.ModuleDict(modules))


def test_generated_anchors_go_all_the_way(corpus, brain, tmp_path):
    """Features of the training speakers, a generator of them, their embeddings, a file of anchors."""
    pieces = generated_anchors.features(brain, corpus, frames=20)
    assert pieces.shape == (2 * 2 * 2, 20, 8)  # speakers, recordings, pieces
    generator = generated_anchors.fit_generator(pieces, 3, 8, epochs=2)
    anchors = generated_anchors.generated_anchors(brain, generator, 70, seed=4)
    latents = torch.empty(70, 3).normal_(generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = brain.modules.embedding_model(generator(latents))[:, 0]
    torch.testing.assert_close(anchors.vectors, wanted, rtol=1e-4, atol=1e-5)
    write_embeddings(tmp_path / "anchors.npz", anchors)
    loaded = read_anchors(tmp_path / "anchors.npz", 6, fingerprint(brain.modules.embedding_model))
    assert loaded.source["kind"] == "fake"


def test_recordings_that_are_too_short_are_named(corpus, brain):
    with pytest.raises(ValueError, match=r"no training recording in .* has 100 frames"):
        generated_anchors.train_generator(brain, corpus)
