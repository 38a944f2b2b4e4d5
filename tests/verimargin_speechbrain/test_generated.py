from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from verimargin.files.anchors import load_anchors, save_anchors
from verimargin.files.networks import fingerprint
from verimargin_speechbrain import generated


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
    pieces = generated.features(brain, corpus, frames=20)
    assert pieces.shape == (2 * 2 * 2, 20, 8)  # speakers, recordings, pieces
    generator = generated.fit_generator(pieces, 3, 8, epochs=2)
    anchors = generated.generated_anchors(brain, generator, 70, seed=4)
    latents = torch.empty(70, 3).normal_(generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = brain.modules.embedding_model(generator(latents))[:, 0]
    torch.testing.assert_close(anchors.vectors, wanted, rtol=1e-4, atol=1e-5)
    save_anchors(tmp_path / "anchors.npz", anchors)
    loaded = load_anchors(tmp_path / "anchors.npz", 6, fingerprint(brain.modules.embedding_model))
    assert loaded.source["kind"] == "fake"


def test_recordings_that_are_too_short_are_named(corpus, brain):
    with pytest.raises(ValueError, match=r"no training recording in .* has 100 frames"):
        generated.train_generator(brain, corpus)
