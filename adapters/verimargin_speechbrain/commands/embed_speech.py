"""`verimargin embed-speech`: a file of embeddings for the other commands, from the model of a verification recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from verimargin.commands.options import DeviceOption, SeedOption
from verimargin.commands.output import new_output
from verimargin.files.choice import choose
from verimargin.files.reading import read_text

from ..annotations import read_recordings
from ..speech_encoder import load_encoder
from .recordings import write_recordings


@new_output(".npz")
def embed_speech(
    recipe: Annotated[Path, typer.Argument(help="a verification YAML, such as verification_ecapa.yaml")],
    annotations: Annotated[
        list[Path],
        typer.Argument(help="train.csv, or enrol.csv and test.csv, with the columns ID, wav, start, stop and spk_id"),
    ],
    out: Annotated[Path, typer.Argument(help="a new .npz for the ids, labels, seconds and embeddings")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="set KEY=VALUE in the recipe, such as pretrain_path=results/...")
    ] = None,
    per_speaker: Annotated[int, typer.Option(help="how many random recordings to take of each speaker; 0 for all")] = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Embed the recordings of the ANNOTATIONS, one at a time, with the features and the model of a verification RECIPE.

    OUT is meant for `verimargin anchors real`, `train-ssr` and `score`. After an interruption, the same command
    continues where it stopped.
    """
    rows = read_recordings(annotations)
    rows = [rows[n] for n in choose([row["spk_id"] for row in rows], per_speaker, seed)]
    given = overrides or []
    encoder = load_encoder(recipe, given, device)
    write_recordings(out, rows, encoder, [read_text(recipe), *given], {"recipe": recipe.name})
