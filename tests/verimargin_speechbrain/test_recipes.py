import shutil

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from verimargin.files import hparams as recipes
from verimargin_speechbrain import check_corpus

TRAINING = [name for name in recipes.names() if name.startswith("speechbrain/train")]
# What train_speaker_embeddings.py reads from a recipe.
KEYS = {
    "save_folder", "verification_file", "data_folder", "split_ratio", "sentence_len", "skip_prep", "prepare_noise_data",
    "prepare_rir_data",
    "train_annotation", "valid_annotation", "sample_rate", "random_chunk", "output_folder", "modules",
    "opt_class", "checkpointer", "epoch_counter", "dataloader_options", "compute_cost", "lr_annealing", "train_logger",
    "error_stats",
}  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    """A corpus of empty files: 3 training speakers and 2 in the test."""
    for speaker in ("id1", "id2", "id3", "id8", "id9"):
        path = tmp_path / "wav" / speaker / "s0" / "0.wav"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "veri_test.txt").write_text("1 id8/s0/0.wav id8/s0/0.wav\n0 id8/s0/0.wav id9/s0/0.wav\n")
    return tmp_path


def prepare(save_folder, speakers=5):
    """What the script writes before it trains, of a training set of one sample per speaker."""
    save_folder.mkdir(parents=True, exist_ok=True)
    encoder = CategoricalEncoder()
    encoder.update_from_iterable([f"id{i}" for i in range(speakers)])
    encoder.save(save_folder / "label_encoder.txt")
    rows = [f"id{i}--0, 3.0, x.wav, 0, 48000, id{i}" for i in range(speakers)]
    (save_folder / "train.csv").write_text("\n".join(["ID,duration,wav,start,stop,spk_id", *rows]))


@pytest.mark.parametrize("name", TRAINING)
def test_a_recipe_is_complete_and_takes_a_step(name, corpus):
    overrides = f"data_folder: {corpus}\nverification_file: {corpus}/veri_test.txt\noutput_folder: {corpus}/out\n"
    overrides += "out_n_neurons: 5\n"
    if "channels" in recipes.path(name).read_text():
        overrides += "emb_dim: 16\n"
    h = load_hyperpyyaml(recipes.path(name).read_text(), overrides)
    prepare(corpus / "out" / "save")
    assert set(h) >= KEYS
    assert set(h["modules"]) >= {"compute_features", "mean_var_norm", "embedding_model", "classifier"}
    recoverables = h["checkpointer"].recoverables
    assert {"embedding_model", "classifier", "counter", "lr_annealing", "random_state"} <= set(recoverables)
    modules = torch.nn.ModuleDict(h["modules"]).train()
    features = modules["mean_var_norm"](modules["compute_features"](torch.randn(2, 8000)), torch.ones(2))
    outputs = modules["classifier"](modules["embedding_model"](features))
    next(h["epoch_counter"])
    h["compute_cost"](outputs, torch.tensor([[0], [4]]), torch.ones(2)).backward()
    assert all(p.grad is not None for p in modules.parameters() if p.requires_grad)
    if "kappa" in modules:
        assert h["dataloader_options"]["collate_fn"] is h["training_samples"]
        assert recoverables["kappa"] is h["kappa"]
        assert int(h["kappa"].tracker.estimator.counts.sum()) == 2


@pytest.mark.parametrize(
    ("recipe", "cost"),
    [
        *(("train_ecapa_small.yaml", cost) for cost in ("qmargin", "arcface", "cosface")),
        *(("train_ecapa_small_kappaface.yaml", cost) for cost in ("kappaface", "qmargin")),
    ],
)
def test_the_small_recipes_choose_their_loss_on_the_command_line(recipe, cost, corpus):
    h = load_hyperpyyaml(
        recipes.path(recipe).read_text(),
        f"data_folder: {corpus}\ncompute_cost: !ref <costs[{cost}]>\n",
    )
    assert h["compute_cost"] is h["costs"][cost]


def test_the_corpus_is_checked_when_the_recipe_is_loaded(corpus):
    check_corpus(str(corpus), str(corpus / "veri_test.txt"), 3)
    # behind a URL the test speakers, unpacked beside the others as SpeechBrain's README says, are not known yet
    check_corpus(f"{corpus}, {corpus}", "https://example.org/veri_test.txt", 3)
    text = recipes.path("train_ecapa_small.yaml").read_text()
    with pytest.raises(ValueError, match="3 training speakers, the recipe has 2 classes: set out_n_neurons to 3"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\nout_n_neurons: 2\n")
    (corpus / "bad.txt").write_text("one two\n")
    with pytest.raises(ValueError, match="is 'one two': give '<1 or 0>"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\nverification_file: {corpus}/bad.txt\n")
    (corpus / "veri_test.txt").write_text("1 id8/s0/0.wav id8/s0/7.wav\n")
    with pytest.raises(ValueError, match=r"names id8/s0/7\.wav, which is not in"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\n")
    with pytest.raises(ValueError, match=r"names id8/s0/7\.wav"):
        load_hyperpyyaml(
            recipes.path("verify_ecapa_small.yaml").read_text(), f"data_folder: {corpus}\npretrain_path: x\n"
        )
    with pytest.raises(ValueError, match="does not exist"):
        load_hyperpyyaml(text, f"data_folder: {corpus}\nverification_file: {corpus}/none.txt\n")
    shutil.rmtree(corpus / "wav")
    with pytest.raises(ValueError, match="has no folder 'wav'"):
        check_corpus(str(corpus), "https://example.org/veri_test.txt", 3)
    (corpus / "wav" / "id1").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no training recording"):
        check_corpus(str(corpus), "https://example.org/veri_test.txt", 3)
