"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

K, TAU = 10, 1.0  # of IDA, where nothing is said

EmbeddingsArgument = Annotated[
    Path, typer.Argument(help="an .npz, a dictionary saved by torch.save, or a folder of .npy")
]
TrainingArgument = Annotated[Path, typer.Argument(help="an .npz with `embeddings` and `labels` of a training set")]
TrialsArgument = Annotated[Path, typer.Argument(help="a trial list in the format of VoxCeleb or IJB")]
FolderArgument = Annotated[Path, typer.Argument(help="a new folder for the results")]
KOption = Annotated[int, typer.Option(help="the number of nearest anchors that IDA uses")]
TauOption = Annotated[float, typer.Option(help="IDA's temperature")]
# Where None means that nothing was said: a setting of a method that is not used is refused, not ignored.
GivenKOption = Annotated[
    int | None, typer.Option("--k", help="the number of nearest anchors that IDA-R uses", show_default=str(K))
]
GivenTauOption = Annotated[float | None, typer.Option("--tau", help="IDA-R's temperature", show_default=f"{TAU:g}")]
IntervalsOption = Annotated[
    bool, typer.Option("--intervals/--no-intervals", help="95 % intervals over the identities, or none")
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        help="the memory that the command may take, in GiB or as 1500MiB; refused at once if it is too little"
    ),
]
CohortOption = Annotated[Path | None, typer.Option(help="embeddings of impostors: adds s-norm and adaptive s-norm")]
CohortSizeOption = Annotated[
    int | None,
    typer.Option(help="how many of the nearest impostors adaptive s-norm uses", show_default="300, or all if fewer"),
]
AnchorsOption = Annotated[Path | None, typer.Option(help="a file of anchors: adds IDA-R")]
RegressorOption = Annotated[Path | None, typer.Option(help="a file that verimargin train-ssr wrote: adds IDA-L")]
SeedOption = Annotated[int, typer.Option(help="the seed of every random choice")]


def _check_device(name: str) -> str:
    """Refuse a device that is not there before anything is read."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device is {name!r}: give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device is {name}, but torch finds {torch.cuda.device_count()} GPUs here: give another one")
    return name


DeviceOption = Annotated[str, typer.Option(help="the device to compute on, such as cuda", callback=_check_device)]


def sizes_of(name: str, text: str) -> list[int]:
    """The integers in a text such as 100x1x1; an empty text gives an empty list."""
    try:
        return [int(size) for size in text.split("x")] if text else []
    except ValueError:
        raise ValueError(f"{name} is {text!r}: give integers, such as 512 or 100x1x1") from None
