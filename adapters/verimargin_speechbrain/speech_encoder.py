"""The encoder of a recipe: its features, their normalisation and its embedding model, for one recording at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from verimargin._checks import check_norms
from verimargin.files.networks import fingerprint
from verimargin.files.reading import read_text

from .overrides import as_yaml

PARTS = ("compute_features", "mean_var_norm", "embedding_model")


class SpeechEncoder:
    """The embedding of a recording, by itself, as `speaker_verification_cosine.py` makes it with a batch size of 1.

    Args:
        hparams: a loaded recipe, with its weights.

    Attributes:
        fingerprint: of the weights of the embedding model.
        sample_rate: that of the recipe, by its own key or by its features' spectrum; None if neither says so.
    """

    def __init__(self, hparams: Mapping[str, Any], device: str):
        self.device = device
        self.data_folder = str(hparams.get("data_folder", ""))
        self.features, self.normaliser, self.model = (hparams[name].to(device).eval() for name in PARTS)
        self.fingerprint = fingerprint(self.model)
        spectrum = getattr(self.features, "compute_STFT", None)
        self.sample_rate: int | None = hparams.get("sample_rate", getattr(spectrum, "sample_rate", None))

    def __call__(self, row: Mapping[str, str]) -> np.ndarray:
        """The embedding (d,) of a row of an annotation.

        Raises:
            ValueError: the recording cannot be read, is shorter than the row says, or has another sample rate than the
                recipe, or several channels; or the embedding is nan or all zero.
        """
        samples = torch.from_numpy(self._samples(row))[None].to(self.device)
        length = torch.ones(1, device=self.device)
        with torch.no_grad():
            embedding = self.model(self.normaliser(self.features(samples), length), length)
        check_norms(embedding.reshape(1, -1).float().norm(dim=1).cpu(), "the embedding of", [row["ID"]])
        return embedding.reshape(-1).float().cpu().numpy()

    def _samples(self, row: Mapping[str, str]) -> np.ndarray:
        import soundfile

        path = row["wav"].replace("$data_root", self.data_folder)
        if not Path(path).is_file():
            raise ValueError(f"{path} of {row['ID']} does not exist: set data_folder to where the recordings are")
        start, stop = int(row["start"]), int(row["stop"])
        try:
            samples, rate = soundfile.read(path, start=start, stop=stop, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} of {row['ID']} is no recording that can be read: {error}") from error
        if len(samples) != stop - start:
            raise ValueError(
                f"{row['ID']} is samples {start} to {stop} of {path}, which ends at {start + len(samples)}: the "
                "recording has changed since the annotation was made"
            )
        if self.sample_rate and rate != self.sample_rate:
            raise ValueError(
                f"{path} has {rate} samples per second, the recipe takes {self.sample_rate}: resample the recordings"
            )
        if samples.ndim != 1:
            raise ValueError(f"{path} has {samples.shape[1]} channels: give recordings with one channel")
        return samples


def load_encoder(recipe: Path, overrides: Sequence[str], device: str) -> SpeechEncoder:
    """The encoder of a verification recipe, with the weights that its pretrainer loads.

    What the pretrainer has no path for lies beside the recipe, as in the folders for SpeechBrain's `from_hparams`.

    Args:
        overrides: KEY=VALUE of the recipe.
    """
    if not recipe.is_file():
        raise ValueError(f"{recipe} does not exist: `verimargin hparams` lists recipes and copies one")
    return encoder_of(read_text(recipe), str(recipe), overrides, device)


def encoder_of(text: str, recipe: str, overrides: Sequence[str], device: str) -> SpeechEncoder:
    """As `load_encoder`, of the text of a recipe that is called `recipe` in errors."""
    import ruamel.yaml
    import yaml
    from hyperpyyaml import load_hyperpyyaml

    if wrong := [given for given in overrides if "=" not in given]:
        raise ValueError(f"--set {wrong[0]} has no value: give KEY=VALUE")
    values = as_yaml(dict(given.partition("=")[::2] for given in overrides))
    try:
        hparams = load_hyperpyyaml(text, values or None)
    except (yaml.YAMLError, ruamel.yaml.error.YAMLError) as error:
        raise ValueError(f"{recipe} is no YAML file: {' '.join(str(error).split())}") from error
    except KeyError as error:  # of an override
        raise ValueError(
            f"{recipe} has no key that one of the --set options names ({error}): give a verification recipe, such as "
            "verify_ecapa_small.yaml, and keys of it"
        ) from error
    for name in (*PARTS, "pretrainer"):
        if name not in hparams:
            raise ValueError(f"{recipe} has no {name}: give a recipe of speaker_verification_cosine.py")
    with tempfile.TemporaryDirectory() as folder:  # the script's output folder need not exist
        hparams["pretrainer"].set_collect_in(folder)
        try:
            hparams["pretrainer"].collect_files(str(Path(recipe).resolve().parent))
            hparams["pretrainer"].load_collected()
        except Exception as error:  # of the fetcher or of torch
            raise ValueError(
                f"the models of {recipe} cannot be loaded: set pretrain_path to the folder of their checkpoints, and "
                f"the recipe's sizes to theirs ({error})"
            ) from error
    return SpeechEncoder(hparams, device)
