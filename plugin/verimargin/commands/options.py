"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EmbeddingsArgument = Annotated[Path, typer.Argument(help=".npz, torch.save of a dictionary, or folder of .npy")]
TrainingArgument = Annotated[Path, typer.Argument(help=".npz with `embeddings` and `labels`, of a training set")]
TrialsArgument = Annotated[Path, typer.Argument(help="VoxCeleb's or IJB's list")]
FolderArgument = Annotated[Path, typer.Argument(help="a new folder for the results")]
KOption = Annotated[int, typer.Option(help="nearest anchors in a support set")]
TauOption = Annotated[float, typer.Option(help="IDA's temperature")]
ResamplesOption = Annotated[int, typer.Option(min=0, help="resamples of the identities, for the intervals; 0: none")]
SeedOption = Annotated[int, typer.Option(help="of every random choice")]
DeviceOption = Annotated[str, typer.Option(help="where to compute, such as cuda")]


def sizes_of(name: str, text: str) -> list[int]:
    """The integers of 100x1x1; none of an empty text."""
    try:
        return [int(size) for size in text.split("x")] if text else []
    except ValueError:
        raise ValueError(f"{name} is {text!r}: give integers, such as 512 or 100x1x1") from None
