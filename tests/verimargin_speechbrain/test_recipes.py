import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from verimargin.files import hparams as recipes

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
def corpus(corpus_shell):
    return corpus_shell


def prepare(save_folder, speakers=5):
    """What the script writes before it trains, of a training set of one sample per speaker."""
    save_folder.mkdir(parents=True, exist_ok=True)
    encoder = CategoricalEncoder()
    encoder.update_from_iterable([f"id{i}" for i in range(speakers)])
    encoder.save(save_folder / "label_encoder.txt")
    rows = [f"id{i}--0, 3.0, x.wav, 0, 48000, id{i}" for i in range(speakers)]
    (save_folder / "train.csv").write_text("\n".join(["ID,duration,wav,start,stop,spk_id", *rows]))


def finished_run(name, corpus):
    """The save_folder of a run with the model of a fine-tuning recipe and five speakers."""
    text = recipes.path(name.replace("_finetune", "" if "small" in name else "_qmargin")).read_text()
    overrides = f"data_folder: {corpus}\nverification_file: {corpus}/veri_test.txt\noutput_folder: {corpus}/before\n"
    h = load_hyperpyyaml(text, overrides + "out_n_neurons: 5\n" + "emb_dim: 16\n")
    h["checkpointer"].save_checkpoint(meta={"ErrorRate": 0.1})
    prepare(corpus / "before" / "save")
    return corpus / "before" / "save"


@pytest.mark.parametrize("name", TRAINING)
def test_a_recipe_is_complete_and_takes_a_step(name, corpus):
    overrides = f"data_folder: {corpus}\nverification_file: {corpus}/veri_test.txt\noutput_folder: {corpus}/out\n"
    overrides += "out_n_neurons: 5\n"
    if "finetune" in name:
        overrides += f"finished: {finished_run(name, corpus)}\n"
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
    if "compute_cost" in modules:
        assert recoverables["compute_cost"] is h["compute_cost"]
        assert h["compute_cost"].loss.margin.quality.mean != 20.0
    if "schedule" in h:
        assert recoverables["schedule"] is h["schedule"]
        assert h["schedule"].count == 1
        assert 0.2 < h["compute_cost"].loss.margin.m < 0.21
    if "kappa" in modules:
        assert h["dataloader_options"]["collate_fn"] is h["training_samples"]
        assert recoverables["kappa"] is h["kappa"]
        assert int(h["kappa"].tracker.estimator.counts.sum()) == 2


@pytest.mark.parametrize(
    ("recipe", "cost"),
    [
        *(("train_ecapa_small.yaml", cost) for cost in ("qmargin", "arcface", "cosface")),
        *(("train_ecapa_small_kappaface.yaml", cost) for cost in ("kappaface", "qmargin")),
        *(("train_ecapa_small_quality.yaml", cost) for cost in ("qmargin", "adaface")),
    ],
)
def test_the_small_recipes_choose_their_loss_on_the_command_line(recipe, cost, corpus):
    h = load_hyperpyyaml(
        recipes.path(recipe).read_text(),
        f"data_folder: {corpus}\ncompute_cost: !ref <costs[{cost}]>\n",
    )
    assert h["compute_cost"] is h["costs"][cost]
