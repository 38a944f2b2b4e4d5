"""A verification recipe with a tiny model, and a few recordings for it."""

import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml

RECIPE = """
data_folder: !PLACEHOLDER
compute_features: !new:torch.nn.Unflatten {dim: 1, unflattened_size: [-1, 10]}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization {norm_type: sentence, std_norm: False}
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 10
    channels: [8, 8, 8, 8, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    se_channels: 8
    lin_neurons: 4
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables: {embedding_model: !ref <embedding_model>}
    paths: {embedding_model: !ref <data_folder>/model.ckpt}
    collect_in: !ref <data_folder>/not/there
"""


def make(tmp_path):
    """The folder with recipe.yaml, model.ckpt, train.csv and six recordings of three speakers."""
    torch.manual_seed(0)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    hparams = load_hyperpyyaml(RECIPE, f"data_folder: {tmp_path}")
    torch.save(hparams["embedding_model"].state_dict(), tmp_path / "model.ckpt")
    lines = ["ID, duration, wav, start, stop, spk_id"]
    for i, speaker in enumerate("aabbbc"):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * torch.randn(1200).numpy(), 16000)
        lines.append(f"{speaker}-{i}, 0.05, $data_root/{i}.wav, {100 * (i % 2)}, 1100, {speaker}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    return tmp_path
