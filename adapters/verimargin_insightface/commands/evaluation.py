"""A training run of arcface_torch for `verimargin evaluate`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from verimargin.commands.training_run import ListedSet, TrainingSet
from verimargin.files.calibrations import digest
from verimargin.files.embeddings import Embeddings, save_npz, write_embeddings
from verimargin.files.networks import fingerprint

from .. import rank_files
from ..backbone import load_encoder
from ..face_trials import FaceTrials, open_face_trials
from ..run_log import NAME, read_settings
from ..training_images import decode, open_images
from .images import Encoder, embed_images

MODEL = "model.pt"


def open_run(checkpoint: Path, network: str) -> ArcFaceTorchRun | None:
    """The run, if arcface_torch wrote it.

    Raises:
        ValueError: it has no model.pt yet, or nothing says what network that is.
    """
    folder = checkpoint.parent if checkpoint.is_file() else checkpoint
    if not (folder / MODEL).is_file():
        if not rank_files.saved(folder) and not (folder / NAME).is_file():
            return None
        raise ValueError(f"{folder} has no {MODEL}: wait until the training has finished an epoch")
    settings = read_settings(folder)
    network = network or settings.get("network", "")
    if not network:
        raise ValueError(f"{folder} has no {NAME} that tells the network: give it as --network, such as r50")
    return ArcFaceTorchRun(folder, network, settings, fingerprint(folder / MODEL))


@dataclass(frozen=True)
class ArcFaceTorchRun:
    """See `verimargin.commands.training_run.TrainingRun`."""

    folder: Path
    network: str
    settings: dict[str, str]
    encoder: str

    @property
    def title(self) -> str:
        return f"arcface_torch: {self.folder / MODEL}, network {self.network}"

    @cached_property
    def _ranks(self) -> tuple[list[Path], str]:
        """The files of the prototypes, or why there are none."""
        try:
            return [Path(file.path) for file in rank_files.newest(self.folder, *rank_files.find(self.folder))], ""
        except ValueError as error:
            return [], str(error)

    @property
    def prototypes(self) -> list[Path]:
        return self._ranks[0]

    @property
    def no_prototypes(self) -> str:
        if rank_files.saved(self.folder):
            return self._ranks[1]
        return "the run kept none, because config.save_all_states was not True"

    def tests(self, trials: Path, data: Path | None) -> ListedSet:
        faces = open_face_trials(trials, data)
        where = str((data or trials.parent).resolve())

        def embed(out: Path, device: str) -> None:
            key = [self.encoder, self.network, digest(trials), where]
            vectors = embed_images(out, len(faces.images), faces.pixels, self._load(device), key)
            _write(out, faces, vectors, self.encoder)

        return ListedSet(faces.ids, embed, where, faces.identities, faces.list_text)

    def training(self, folder: Path | None) -> TrainingSet:
        where = folder or Path(self.settings.get("rec", ""))
        if not folder and "rec" not in self.settings:
            raise FileNotFoundError(f"{self.folder} has no {NAME} that tells the training set")
        if not where.is_dir():
            raise FileNotFoundError(f"the training set {where} does not exist")
        images = open_images(where)

        def embed(chosen: np.ndarray, out: Path, device: str) -> None:
            ids, labels = [images.ids[n] for n in chosen], images.names[images.labels[chosen]].tolist()
            key = [self.encoder, self.network, str(where.resolve()), ids]
            read = self._load(device)
            vectors = embed_images(out, len(chosen), lambda n: decode(images.read(int(chosen[n]))), read, key)
            source = {"data": where.resolve().name}
            write_embeddings(out, Embeddings(ids, torch.from_numpy(vectors), labels, self.encoder, source))

        key = hashlib.sha256(json.dumps([str(where.resolve()), images.ids]).encode()).hexdigest()
        return TrainingSet(where, images.names[images.labels], embed, key)

    def class_names(self, training: TrainingSet | None) -> list[str]:
        """The folders of an image folder; the classes of a RecordIO set are numbers."""
        if training is None or (training.where / "train.rec").exists():
            return []
        return np.unique(training.labels).tolist()

    def _load(self, device: str) -> Encoder:
        size = self.settings.get("embedding_size", "")
        return load_encoder(self.folder / MODEL, self.network, device, int(size) if size.isdecimal() else None)


def _write(out: Path, faces: FaceTrials, vectors: np.ndarray, encoder: str) -> None:
    """Embeddings of images, or, for a protocol, what `ijb_evals.py --save_embeddings` writes, mirror images added."""
    if faces.of_templates:
        save_npz(out, embs=vectors)
    else:
        write_embeddings(out, Embeddings(faces.ids, torch.from_numpy(vectors), encoder=encoder))
