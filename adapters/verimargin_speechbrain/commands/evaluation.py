"""A training run of SpeechBrain for `verimargin evaluate`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from verimargin.commands.training_run import ListedSet, TrainingSet
from verimargin.files.class_names import read_class_names
from verimargin.files.networks import fingerprint

from ..annotations import read_annotation
from ..corpus import MODEL, folders_of, speaker_of, tested_recordings
from ..speech_encoder import encoder_of
from ..training_folder import TrainingFolder, find_training
from .recordings import write_recordings


def open_run(checkpoint: Path, network: str) -> SpeechBrainRun | None:
    """The run, if SpeechBrain wrote it; raises what `find_training` raises."""
    found = find_training(checkpoint)
    if found and network:
        raise ValueError(f"--network is for a model.pt of arcface_torch: {found.settings} says what this model is")
    return SpeechBrainRun(found, fingerprint(found.checkpoint / MODEL)) if found else None


@dataclass(frozen=True)
class SpeechBrainRun:
    """See `verimargin.commands.training_run.TrainingRun`."""

    folder: TrainingFolder
    encoder: str

    @property
    def title(self) -> str:
        others = self.folder.others
        newest = f", the newest of {others + 1}; give the folder of another to evaluate that one" if others else ""
        return f"SpeechBrain: {self.folder.checkpoint / MODEL}{newest}"

    @property
    def prototypes(self) -> list[Path]:
        return [path for path in [self.folder.checkpoint / "classifier.ckpt"] if path.is_file()]

    @property
    def no_prototypes(self) -> str:
        return f"{self.folder.checkpoint} has no classifier.ckpt"

    def tests(self, trials: Path, data: Path | None) -> ListedSet:
        if trials.suffix == ".bin":
            raise ValueError(
                f"{trials} is a set of faces, but the checkpoint is SpeechBrain's: give a list of recordings"
            )
        root = str(data) if data else self.folder.value("data_folder")
        if not root:
            raise ValueError(f"{self.folder.settings} has no data_folder: give the folder of the recordings as --data")
        wavs = tested_recordings(root, str(trials))
        rows = [self._whole(name, path) for name, path in wavs.items()]
        return ListedSet(list(wavs), partial(self._embed, rows), self._key(rows), set(map(speaker_of, wavs)))

    def training(self, folder: Path | None) -> TrainingSet:
        annotation = self.folder.beside(Path(self.folder.value("train_annotation") or "train.csv").name)
        if not annotation.is_file():
            raise FileNotFoundError(f"the training set's {annotation} does not exist")
        rows = read_annotation(annotation)
        roots = folders_of(self.folder.value("data_folder"))
        if folder:
            rows = [{**row, "wav": str(_moved(row["wav"], roots, folder, annotation))} for row in rows]
        else:
            rows = [{**row, "wav": row["wav"].replace("$data_root", str(roots[0]))} for row in rows]
        if not Path(rows[0]["wav"]).is_file():
            raise FileNotFoundError(f"{rows[0]['wav']} of {annotation} does not exist")
        labels = np.array([row["spk_id"] for row in rows])

        def embed(chosen: np.ndarray, out: Path, device: str) -> None:
            self._embed([rows[n] for n in chosen], out, device)

        return TrainingSet(annotation, labels, embed, self._key(rows))

    def class_names(self, training: TrainingSet | None) -> list[str]:
        names = self.folder.beside("label_encoder.txt")
        return read_class_names(names) if names.is_file() else []

    @cached_property
    def _recipe(self) -> str:
        return self.folder.recipe()

    def _key(self, rows: list[dict[str, str]]) -> str:
        return hashlib.sha256(json.dumps([self._recipe, rows]).encode()).hexdigest()

    def _embed(self, rows: list[dict[str, str]], out: Path, device: str) -> None:
        encoder = encoder_of(self._recipe, str(self.folder.settings), [], device)
        write_recordings(out, rows, encoder, [self._recipe], {"checkpoint": self.folder.checkpoint.name})

    def _whole(self, name: str, path: Path) -> dict[str, str]:
        """The row of a whole recording, as an annotation has it."""
        import soundfile

        try:
            frames = soundfile.info(path).frames
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is no recording that can be read: {error}") from error
        return {"ID": name, "wav": str(path), "start": "0", "stop": str(frames), "spk_id": speaker_of(name)}


def _moved(wav: str, roots: list[Path], folder: Path, annotation: Path) -> Path:
    """A training recording, in another folder than the run's own."""
    if wav.startswith("$data_root"):
        return Path(wav.replace("$data_root", str(folder)))
    for root in roots:
        if Path(wav).is_relative_to(root):
            return folder / Path(wav).relative_to(root)
    raise ValueError(
        f"{wav} of {annotation} is not in {' or '.join(map(str, roots))}, the data_folder of the run: leave --train out"
    )
