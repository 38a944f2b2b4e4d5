"""What KappaFace has to know about a recipe's training set: its speakers, their samples, and a number per sample."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.encoder import CategoricalEncoder
from torch import Tensor

T = TypeVar("T")


class TrainingSamples:
    """The samples of `train_annotation`, in its order, and the speakers, in the order of the recipe's label encoder.

    Both files exist only after the script has prepared its data, so they are read when they are first needed. As
    `collate_fn` in `dataloader_options` it makes the same batches as the script, but packs the number of each training
    sample into its encoded speaker, as ``speaker + speakers * (1 + number)``. The number thus stays with the sample
    through augmentation and on the device, until `KappaFace` unpacks it in the cost. Samples that are not in the
    annotation (those of the validation set) keep the plain speaker.

    Args:
        annotation: ``!ref <train_annotation>``.
        label_encoder: ``!ref <save_folder>/label_encoder.txt``.
    """

    def __init__(self, annotation: str, label_encoder: str):
        self.annotation, self.label_encoder = Path(annotation), Path(label_encoder)

    def exist(self) -> bool:
        return self.annotation.is_file() and self.label_encoder.is_file()

    @cached_property
    def names(self) -> list[str]:
        """The speakers in the order of their class ids."""
        ids = self._read(self._speaker_ids)
        return sorted(ids, key=ids.__getitem__)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each sample, by its ID in the annotation."""
        return {name: number for number, (name, _) in enumerate(self._rows)}

    @cached_property
    def class_counts(self) -> Tensor:
        """The number of samples of each speaker, (C,)."""
        ids = {name: i for i, name in enumerate(self.names)}
        speakers = {speaker for _, speaker in self._rows}
        if speakers != set(ids):
            unknown = min(speakers ^ set(ids))
            files = (self.annotation, self.label_encoder)[:: 1 if unknown in speakers else -1]
            raise ValueError(
                f"{files[0]} has the speaker {unknown!r}, {files[1]} has not: they come from different training sets; "
                "give a new output_folder"
            )
        return torch.bincount(torch.tensor([ids[speaker] for _, speaker in self._rows]), minlength=len(ids))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the samples, in their order, and their speakers."""
        return hashlib.sha256("\n".join(f"{name} {speaker}" for name, speaker in self._rows).encode()).hexdigest()

    @cached_property
    def _rows(self) -> list[tuple[str, str]]:
        return self._read(self._annotated)

    def __call__(self, examples: list) -> PaddedBatch:
        batch = PaddedBatch(examples)
        number = torch.tensor([self.numbers.get(name, -1) for name in batch.id])
        batch.spk_id_encoded.data.add_(len(self.names) * (1 + number[:, None]))
        return batch

    def unpack(self, packed: Tensor) -> Tensor:
        """The number of each sample, -1 if it has none. Afterwards `packed` holds the plain speakers, in place."""
        number = torch.div(packed, len(self.names), rounding_mode="floor") - 1
        packed.remainder_(len(self.names))
        return number

    def _read(self, reader: Callable[[], T]) -> T:
        if not self.exist():
            missing = self.label_encoder if self.annotation.is_file() else self.annotation
            raise ValueError(
                f"{missing} does not exist: give train_annotation and the label_encoder.txt in save_folder, which the "
                "script writes before training"
            )
        return reader()

    def _speaker_ids(self) -> dict[str, int]:
        encoder = CategoricalEncoder()
        encoder.load(self.label_encoder)
        encoder.ignore_len()
        return encoder.lab2ind

    def _annotated(self) -> list[tuple[str, str]]:
        with self.annotation.open(newline="", encoding="utf-8") as file:
            rows = [(row["ID"], row["spk_id"]) for row in csv.DictReader(file, skipinitialspace=True)]
        if len({name for name, _ in rows}) < len(rows):
            raise ValueError(f"{self.annotation} has an ID twice: give each sample its own ID")
        return rows
