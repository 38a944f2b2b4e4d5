import shutil

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from small_training_folder import make
from verimargin.files import hparams as recipes
from verimargin.files.networks import fingerprint
from verimargin_speechbrain.speech_encoder import encoder_of
from verimargin_speechbrain.training_folder import find_training


@pytest.mark.parametrize("given", ["", "save", "save/CKPT+b", "save/CKPT+b/embedding_model.ckpt"])
def test_the_newest_checkpoint_of_whatever_was_given(tmp_path, given):
    run = make(tmp_path / "run", ["CKPT+b", "CKPT+a"])
    found = find_training(run / given)
    assert found.checkpoint == run / "save" / "CKPT+b"
    assert found.settings == run / "hyperparams.yaml"
    assert found.value("data_folder") == str(run / "data")
    assert found.value("modules") == found.value("nothing") == ""
    assert found.beside("train.csv") == run / "save" / "train.csv"
    assert find_training(run / "save" / "CKPT+a").checkpoint == run / "save" / "CKPT+a"


def test_a_checkpoint_that_was_cut_short_is_not_taken(tmp_path):
    run = make(tmp_path / "run", ["CKPT+b", "CKPT+a"])
    (run / "save" / "CKPT+b" / "CKPT.yaml").write_text("")
    assert find_training(run).checkpoint.name == "CKPT+a"
    assert find_training(run).others == 0
    (run / "save" / "CKPT+a" / "embedding_model.ckpt").unlink()
    with pytest.raises(ValueError, match=r"has hyperparams\.yaml, but no checkpoint in .*save: wait until"):
        find_training(run)


def test_what_is_no_run_of_speechbrain(tmp_path):
    (tmp_path / "model.pt").touch()
    assert find_training(tmp_path) is None
    assert find_training(tmp_path / "model.pt") is None


def test_missing_settings_are_named(tmp_path):
    run = make(tmp_path / "run")
    (run / "hyperparams.yaml").unlink()
    with pytest.raises(ValueError, match=r"CKPT\+1 has no hyperparams\.yaml in a folder above it"):
        find_training(run)


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("speechbrain/train")])
def test_each_recipe_becomes_one_that_loads_the_same_model(tmp_path, name):
    """Nothing of the training is made: no loss, no check of the corpus, no checkpointer."""
    run = make(tmp_path / "run", recipe=name, overrides="finished: elsewhere" if "finetune" in name else "")
    recipe = find_training(run).recipe()
    made = load_hyperpyyaml(recipe)
    assert set(made) - {"sample_rate"} == {"compute_features", "mean_var_norm", "embedding_model", "pretrainer"}
    torch.save(made["embedding_model"].state_dict(), run / "save" / "CKPT+1" / "embedding_model.ckpt")
    encoder = encoder_of(recipe, "the recipe", [], "cpu")
    assert encoder.fingerprint == fingerprint(run / "save" / "CKPT+1" / "embedding_model.ckpt")
    assert encoder.sample_rate == 16000


def test_statistics_of_a_global_normalisation_are_loaded(tmp_path):
    run = make(tmp_path / "run")
    settings = run / "hyperparams.yaml"
    settings.write_text(settings.read_text().replace("norm_type: sentence", "norm_type: global"))
    found = find_training(run)
    made = load_hyperpyyaml(found.recipe())
    torch.save(made["embedding_model"].state_dict(), found.checkpoint / "embedding_model.ckpt")
    made["mean_var_norm"](torch.randn(2, 30, 10) + 5.0, torch.ones(2), epoch=0)
    made["mean_var_norm"]._save(found.checkpoint / "normalizer.ckpt")
    loaded = encoder_of(found.recipe(), "the recipe", [], "cpu").normaliser
    torch.testing.assert_close(loaded.glob_mean, made["mean_var_norm"].glob_mean)
    assert float(loaded.glob_mean.mean()) > 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "is no YAML file"),
        ("- a\n", "is no recipe"),
        ("compute_features: 1\nmean_var_norm: {norm_type: sentence}\n", "has no embedding_model"),
    ],
)
def test_damaged_settings_are_named(tmp_path, text, message):
    run = make(tmp_path / "run")
    (run / "hyperparams.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"hyperparams\.yaml {message}"):
        find_training(run).recipe()
    shutil.rmtree(run)
