"""What `verimargin evaluate` asks of a toolkit's adapter: a training run, its test samples and its training samples.

An adapter names a function in the entry point group "verimargin.evaluators". It takes CHECKPOINT and the network that
the user may have named, and returns a `TrainingRun`, or None if the run is not its toolkit's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np

GROUP = "verimargin.evaluators"
Opener = Callable[[Path, str], "TrainingRun | None"]


@dataclass(frozen=True)
class ListedSet:
    """The samples that a trial list names.

    Attributes:
        ids: of what the list compares: recordings, images or templates.
        embed: writes their embeddings to a new .npz, computed on a device such as "cpu".
        key: what they depend on, besides the encoder.
        identities: those that the list is about, as the training names them; empty if that is unknown.
        list_text: the trial list as text, if the file that was given is none.
    """

    ids: Sequence[str]
    embed: Callable[[Path, str], None]
    key: str
    identities: set[str] = field(default_factory=set)
    list_text: str = ""


@dataclass(frozen=True)
class TrainingSet:
    """The samples that the run was trained with.

    Attributes:
        where: the file or the folder that they are in.
        labels: (N,), the identity of each, as strings.
        embed: writes the embeddings of those at some positions to a new .npz, computed on a device.
        key: what they depend on, besides the encoder.
    """

    where: Path
    labels: np.ndarray
    embed: Callable[[np.ndarray, Path, str], None]
    key: str


class TrainingRun(Protocol):
    """A finished, or interrupted, training run.

    Attributes:
        title: the toolkit and the files that are evaluated, for the user.
        encoder: `fingerprint` of the weights.
        prototypes: the files of the classifier's prototypes; none if the run kept none.
        no_prototypes: why there are none.
    """

    title: str
    encoder: str
    prototypes: Sequence[Path]
    no_prototypes: str

    def tests(self, trials: Path, data: Path | None) -> ListedSet:
        """The samples of a list, in a folder or where the run's settings say; an error names those that are missing."""

    def training(self, folder: Path | None) -> TrainingSet:
        """The training set in a folder, or where the run's settings say.

        Raises:
            FileNotFoundError: it is not there.
        """

    def class_names(self, training: TrainingSet | None) -> list[str]:
        """The identities of the classes, in class order; none if they are known by number only."""


def open_run(checkpoint: Path, network: str = "", openers: Sequence[Opener] | None = None) -> TrainingRun:
    """The run in a folder, of whichever toolkit wrote it.

    Raises:
        ValueError: there is no such folder, or it is no run of a known toolkit.
    """
    if not checkpoint.exists():
        raise ValueError(f"the checkpoint {checkpoint} does not exist: give the output folder of a training run")
    if openers is None:
        openers = [entry.load() for entry in sorted(entry_points(group=GROUP))]
    for opener in openers:
        if run := opener(checkpoint, network):
            return run
    raise ValueError(
        f"{checkpoint} is no folder of a training run: give SpeechBrain's output folder, with hyperparams.yaml and "
        "save/CKPT+..., or arcface_torch's, which has model.pt"
    )
