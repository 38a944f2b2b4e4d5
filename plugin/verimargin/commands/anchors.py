"""`verimargin anchors`: files of anchors for IDA."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ..files.anchors import (
    Anchors,
    anchors_from_embeddings,
    anchors_from_generator,
    anchors_from_prototypes,
    encoder_of,
    save_anchors,
    source_of,
)
from ..files.embeddings import read_embeddings
from ..files.networks import FORMS, fingerprint, load_network
from ..files.whole import class_names, new_file

anchors = typer.Typer(no_args_is_help=True, help="Make a file of anchors for IDA, by one of three ways.")

OutArgument = Annotated[Path, typer.Argument(help="a new .npz")]
ExcludeOption = Annotated[
    Path | None, typer.Option(help="identities that might be in the test set, one a line: they get no anchor")
]
EncoderOption = Annotated[
    Path | None, typer.Option(help="the encoder's file: the anchors are then refused with another's embeddings")
]


@anchors.command()
def fc(
    out: OutArgument,
    checkpoints: Annotated[
        list[Path], typer.Argument(help="classifier.ckpt, all ranks' checkpoint_gpu_<rank>.pt, or their folder")
    ],
    names: Annotated[
        Path | None,
        typer.Option(help="the classes' identities: label_encoder.txt, a file, one a line, or the image folder"),
    ] = None,
    exclude: ExcludeOption = None,
    encoder: EncoderOption = None,
) -> None:
    """OUT from a classifier's prototypes, which lie among the embeddings they were trained with."""
    new_file(out, ".npz")
    excluded = _lines(exclude)
    if named := [line for line in excluded if not names and not line.isdecimal()]:
        raise ValueError(f"{exclude} names {named[0]}, but prototypes are known by number alone: give --names too")
    known = fingerprint(encoder) if encoder else ""
    _save(out, anchors_from_prototypes(checkpoints, class_names(names) if names else [], excluded, known))


@anchors.command()
def real(
    out: OutArgument,
    embeddings: Annotated[Path, typer.Argument(help=".npz with `embeddings` and `labels`, of a training set")],
    seed: Annotated[int, typer.Option(help="of the choice")] = 0,
    exclude: ExcludeOption = None,
    encoder: EncoderOption = None,
) -> None:
    """OUT from training EMBEDDINGS, a random one of each identity."""
    new_file(out, ".npz")
    vectors, labels = read_labelled(embeddings)
    if not labels:
        raise ValueError(
            f"{embeddings} doesn't tell the identities: give an .npz with `embeddings` and `labels`, or ids like "
            "id10001/a/00001"
        )
    known = fingerprint(encoder) if encoder else encoder_of(embeddings)
    made = anchors_from_embeddings(vectors, labels, seed, _lines(exclude), known)
    _save(out, made._replace(source={**made.source, "embeddings": source_of(embeddings) or embeddings.name}))


@anchors.command()
def fake(
    out: OutArgument,
    generator: Annotated[str, typer.Argument(help=f"latents to samples: {FORMS}")],
    encoder: Annotated[str, typer.Argument(help="samples to embeddings: likewise")],
    latent_size: Annotated[str, typer.Option(help="of a latent, such as 512 or 100x1x1")] = "512",
    number: Annotated[int, typer.Option(help="of anchors")] = 50_000,
    truncation: Annotated[float | None, typer.Option(help="bound on each number of a latent; none by default")] = None,
    seed: Annotated[int, typer.Option(help="of the latents")] = 0,
    batch_size: Annotated[int, typer.Option(help="samples at a time")] = 64,
    device: Annotated[str, typer.Option(help="where to compute, such as cuda")] = "cpu",
) -> None:
    """OUT from samples of the GENERATOR, through the ENCODER whose embeddings are to be scored."""
    from tqdm import tqdm

    new_file(out, ".npz")
    sampler, _ = load_network(generator, device)
    network, known = load_network(encoder, device)
    made = anchors_from_generator(
        sampler,
        network,
        sizes_of("latent_size", latent_size),
        number,
        truncation=truncation,
        seed=seed,
        batch_size=batch_size,
        device=device,
        progress=lambda batches: tqdm(batches, "generating", unit="batch", disable=None),
    )
    _save(out, made._replace(encoder=known, source={**made.source, "generator": generator}))


def read_labelled(path: Path) -> tuple[torch.Tensor, list[str]]:
    """Embeddings (N, d) and the identity of each: `labels`, or else its id up to the first /, or else none."""
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in ("embeddings", "labels") if name in file}
        if len(held) == 2:
            return torch.from_numpy(held["embeddings"]), [str(label) for label in held["labels"].reshape(-1).tolist()]
    ids, vectors = read_embeddings(path)
    return vectors, [name.partition("/")[0] for name in ids] if all("/" in name for name in ids) else []


def _save(out: Path, made: Anchors) -> None:
    save_anchors(out, made)
    excluded = f", {len(made.source['excluded'])} identities excluded" if "excluded" in made.source else ""
    known = f"encoder {made.encoder[:12]}" if made.encoder else "encoder not recorded: its size alone will be checked"
    print(f"{len(made.ids)} anchors of {made.vectors.shape[1]} in {out}{excluded}; {known}")


def _lines(path: Path | None) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path else []


def sizes_of(name: str, text: str) -> list[int]:
    """The integers of 100x1x1; none of an empty text."""
    try:
        return [int(size) for size in text.split("x")] if text else []
    except ValueError:
        raise ValueError(f"{name} is {text!r}: give integers, such as 512 or 100x1x1") from None
