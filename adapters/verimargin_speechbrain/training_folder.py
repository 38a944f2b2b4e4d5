"""What a training by SpeechBrain's script leaves in its output folder: checkpoints, settings, and a list of samples."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from verimargin.files.reading import read_text

from .corpus import MODEL
from .speech_encoder import PARTS

SETTINGS = "hyperparams.yaml"  # the recipe of the run, with its overrides, which the script copies there
KEPT = ("sample_rate", *PARTS)
PRETRAINER = """
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables: {loadables}
  paths: {paths}
"""


class TrainingFolder(NamedTuple):
    """A run, and one of its checkpoints.

    Attributes:
        checkpoint: the folder CKPT+... .
        others: how many other checkpoints the run has.
        settings: hyperparams.yaml.
    """

    checkpoint: Path
    others: int
    settings: Path

    def recipe(self) -> str:
        """A verification recipe, which loads the weights of the checkpoint.

        It has nothing of the training's but the features, their normalisation and the model.

        Raises:
            ValueError: the settings are no recipe of train_speaker_embeddings.py.
        """
        from ruamel.yaml import YAML

        parser = YAML()
        held = self._read(parser)
        for name in [name for name in held if name not in KEPT]:
            del held[name]
        if missing := [name for name in PARTS if name not in held]:
            raise ValueError(
                f"{self.settings} has no {missing[0]}: give a run of train_speaker_embeddings.py, or embed with a "
                "verification recipe (verimargin embed-speech)"
            )
        files = {"embedding_model": MODEL}
        normaliser = self.checkpoint / "normalizer.ckpt"
        if held["mean_var_norm"].get("norm_type") == "global" and normaliser.is_file():
            files["mean_var_norm"] = normaliser.name
        text = io.StringIO()
        parser.dump(held, text)
        loadables = "{" + ", ".join(f"{name}: !ref <{name}>" for name in files) + "}"
        paths = json.dumps({name: str(self.checkpoint.resolve() / file) for name, file in files.items()})
        return text.getvalue() + PRETRAINER.format(loadables=loadables, paths=paths)

    def value(self, key: str) -> str:
        """A plain setting as text; "" if there is none."""
        from ruamel.yaml import YAML

        held = self._read(YAML()).get(key)
        return str(held) if isinstance(held, (str, int, float)) else ""

    def beside(self, name: str) -> Path:
        """A file that the script prepares in its save_folder, where the checkpoints are too."""
        return self.checkpoint.parent / name

    def _read(self, parser: Any) -> Any:
        from ruamel.yaml.error import YAMLError

        try:
            held = parser.load(read_text(self.settings))
        except YAMLError as error:
            raise ValueError(f"{self.settings} is no YAML file: {' '.join(str(error).split())}") from error
        if not isinstance(held, dict):
            raise ValueError(f"{self.settings} is no recipe: give the output folder of a training run")
        return held


def find_training(given: Path) -> TrainingFolder | None:
    """The run in an output folder, in its save_folder, or of one checkpoint, of which it is the newest by default.

    None if it is no run of SpeechBrain's.

    Raises:
        ValueError: the run has no checkpoint yet, or its settings are not there.
    """
    if given.is_file():
        given = given.parent
    checkpoints = [given] if _saved_at(given) else _checkpoints(given) or _checkpoints(given / "save")
    if not checkpoints and (given / SETTINGS).is_file():
        save = TrainingFolder(given, 0, given / SETTINGS).value("save_folder")
        checkpoints = _checkpoints(Path(save)) if save else []
        if not checkpoints:
            raise ValueError(
                f"{given} has {SETTINGS}, but no checkpoint in {save or 'save'}: wait until the training has finished "
                "an epoch"
            )
    if not checkpoints:
        return None
    newest = max(checkpoints, key=_saved_at)
    settings = [folder / SETTINGS for folder in (given, newest.parent.parent, newest.parent)]
    found = next((path for path in settings if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"{newest} has no {SETTINGS} in a folder above it, which says what the model is made of: give the output "
            "folder of the training"
        )
    return TrainingFolder(newest, len(checkpoints) - 1, found)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("CKPT*")) if _saved_at(path)]


def _saved_at(folder: Path) -> float:
    """When a checkpoint was saved, in seconds since 1970; 0 for a folder that is none, or one that was cut short."""
    if not (folder / MODEL).is_file() or not (folder / "CKPT.yaml").is_file():
        return 0.0
    try:
        return float(yaml.safe_load(read_text(folder / "CKPT.yaml"))["unixtime"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return 0.0
