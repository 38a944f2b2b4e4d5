import re

import numpy as np
import pytest
import soundfile
import torch
from small_recipe import make
from verimargin.files.networks import fingerprint
from verimargin_speechbrain.annotations import read_annotation
from verimargin_speechbrain.speech_encoder import encoder_of, load_encoder


@pytest.fixture
def corpus(tmp_path):
    return make(tmp_path)


def test_features_normalisation_and_model_of_the_recipe(corpus):
    encoder = load_encoder(corpus / "recipe.yaml", [f"data_folder={corpus}"], "cpu")
    assert encoder.fingerprint == fingerprint(corpus / "model.ckpt")
    assert encoder.sample_rate is None
    row = read_annotation(corpus / "train.csv")[3]
    samples = torch.from_numpy(soundfile.read(corpus / "3.wav", start=100, stop=1100, dtype="float32")[0])
    features = samples.reshape(1, -1, 10)
    with torch.no_grad():
        expected = encoder.model(features - features.mean(1, keepdim=True), torch.ones(1)).flatten()
    np.testing.assert_allclose(encoder(row), expected, atol=1e-5)


def test_a_text_is_read_like_a_file(corpus):
    row = read_annotation(corpus / "train.csv")[0]
    recipe, override = corpus / "recipe.yaml", [f"data_folder={corpus}"]
    one, other = load_encoder(recipe, override, "cpu"), encoder_of(recipe.read_text(), "a text", override, "cpu")
    np.testing.assert_array_equal(one(row), other(row))


def test_a_model_without_a_path_lies_beside_the_recipe(corpus, monkeypatch):
    recipe, override = corpus / "recipe.yaml", [f"data_folder={corpus}"]
    given = load_encoder(recipe, override, "cpu")
    (corpus / "model.ckpt").rename(corpus / "embedding_model.ckpt")
    without = [line for line in recipe.read_text().splitlines() if "paths:" not in line]
    recipe.write_text("\n".join(without))
    monkeypatch.chdir(corpus.parent)
    assert load_encoder(recipe, override, "cpu").fingerprint == given.fingerprint


def test_a_damaged_recipe_or_recording_is_named(corpus):
    (corpus / "few.yaml").write_text("pretrainer: 1\n")
    with pytest.raises(ValueError, match="has no compute_features"):
        load_encoder(corpus / "few.yaml", [], "cpu")
    (corpus / "bad.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(ValueError, match=r"bad\.yaml is no YAML file"):
        load_encoder(corpus / "bad.yaml", [], "cpu")
    with pytest.raises(ValueError, match=r"--set data_folder has no value: give KEY=VALUE"):
        load_encoder(corpus / "recipe.yaml", ["data_folder"], "cpu")
    with pytest.raises(ValueError, match=r"none\.yaml does not exist: `verimargin hparams` lists recipes"):
        load_encoder(corpus / "none.yaml", [], "cpu")
    (corpus / "3.wav").write_bytes(b"no recording")
    encoder = load_encoder(corpus / "recipe.yaml", [f"data_folder={corpus}"], "cpu")
    row = read_annotation(corpus / "train.csv")[3]
    with pytest.raises(ValueError, match=re.escape("3.wav of b-3 is no recording that can be read")):
        encoder(row)
    (corpus / "model.ckpt").unlink()
    with pytest.raises(ValueError, match=r"the models of .* cannot be loaded: set pretrain_path"):
        load_encoder(corpus / "recipe.yaml", [f"data_folder={corpus}"], "cpu")
