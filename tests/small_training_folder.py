"""The output folder of a run of SpeechBrain, without the training."""

import io

import torch
from hyperpyyaml import resolve_references
from verimargin.files import hparams as recipes

SIZES = "channels: 8\nemb_dim: 4\nn_mels: 10\nout_n_neurons: 3"


def make(folder, names=("CKPT+1",), recipe="train_ecapa_small.yaml", overrides=SIZES, data=None):
    """The output folder of a run, with the files that SpeechBrain leaves there."""
    values = f"data_folder: {data or folder / 'data'}\noutput_folder: {folder}\n{overrides}"
    text = recipes.path(recipe).read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(resolve_references(io.StringIO(text), values).read())
    for n, name in enumerate(names):
        checkpoint = folder / "save" / name
        checkpoint.mkdir(parents=True)
        (checkpoint / "CKPT.yaml").write_text(f"end-of-epoch: true\nunixtime: {1000.5 - n}\n")
        torch.save({"x": torch.ones(1)}, checkpoint / "embedding_model.ckpt")
    return folder
