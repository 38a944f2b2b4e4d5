"""`verimargin anchors`: files of anchors for IDA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..files.anchors import anchors_from_embeddings, anchors_from_generator, anchors_from_prototypes, encoder_beside
from ..files.class_names import read_class_names
from ..files.embeddings import Embeddings, read_labelled_embeddings, write_embeddings
from ..files.networks import FORMS, TORCH_FILES, fingerprint, load_network
from ..files.reading import read_text
from ..files.whole import writing
from .options import DeviceOption, SeedOption, TrainingArgument, sizes_of
from .output import new_output
from .progress import progress

anchors = typer.Typer(no_args_is_help=True, help="Make a file of anchors for IDA, in one of three ways.")

OutArgument = Annotated[Path, typer.Argument(help="a new .npz")]
ExcludeOption = Annotated[
    Path | None, typer.Option(help="a file of identities that may be in the test set, one per line: they get no anchor")
]
EncoderOption = Annotated[
    Path | None, typer.Option(help="the encoder's file; embeddings of another encoder will then be refused")
]
TrainedEncoderOption = Annotated[
    Path | None, typer.Option(help="the encoder's file, if it is not the one that lies beside the classifier")
]


@anchors.command()
def fc(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            default_factory=list,  # or click, which takes the last argument for OUT, would call these missing
            show_default=False,
            help="classifier.ckpt, the checkpoint_gpu_<rank>.pt of all ranks, or the folder of those",
        ),
    ],
    out: OutArgument,
    names: Annotated[
        Path | None,
        typer.Option(
            help="the identities of the classes: label_encoder.txt, a file with one per line, or the image folder"
        ),
    ] = None,
    exclude: ExcludeOption = None,
    encoder: TrainedEncoderOption = None,
) -> None:
    """Write the prototypes of a classifier as anchors: they lie among the embeddings that they were trained with."""
    if not checkpoints or out.suffix in TORCH_FILES:
        raise ValueError(
            f"OUT is missing, the last argument is {out}: give the classifier's files or folder, and then a new .npz"
        )
    with writing(out, ".npz"):
        excluded = _lines(exclude)
        if named := [line for line in excluded if not names and not line.isdecimal()]:
            raise ValueError(f"{exclude} names {named[0]}, but prototypes are known by number only: give --names too")
        trained_with = encoder_beside(checkpoints, encoder)
        known = fingerprint(trained_with) if trained_with else ""
        made = anchors_from_prototypes(checkpoints, read_class_names(names) if names else [], excluded, known)
        if trained_with:
            made = replace(made, source={**made.source, "encoder": trained_with.name})
        _save(out, made)


@anchors.command()
@new_output(".npz")
def real(
    embeddings: TrainingArgument,
    out: OutArgument,
    seed: SeedOption = 0,
    exclude: ExcludeOption = None,
    encoder: EncoderOption = None,
) -> None:
    """Write one random embedding of each identity in the training EMBEDDINGS as an anchor."""
    given = read_labelled_embeddings(embeddings)
    known = fingerprint(encoder) if encoder else given.encoder
    made = anchors_from_embeddings(given.vectors, given.labels, seed, _lines(exclude), known)
    _save(out, replace(made, source={**made.source, "embeddings": given.source or embeddings.name}))


@anchors.command()
@new_output(".npz")
def fake(
    generator: Annotated[str, typer.Argument(help=f"the network from latents to samples: {FORMS}")],
    encoder: Annotated[str, typer.Argument(help="the network from samples to embeddings, in one of the same forms")],
    out: OutArgument,
    latent_size: Annotated[str, typer.Option(help="the size of a latent, such as 512 or 100x1x1")] = "512",
    number: Annotated[int, typer.Option(help="how many anchors to make")] = 50_000,
    truncation: Annotated[
        float | None, typer.Option(help="the largest absolute value in a latent; not limited by default")
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(help="samples per batch")] = 64,
    device: DeviceOption = "cpu",
) -> None:
    """Write embeddings of generated samples as anchors, made by the ENCODER whose embeddings are to be scored."""
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
        progress=lambda batches: progress(batches, "generating", "batch"),
    )
    _save(out, replace(made, encoder=known, source={**made.source, "generator": generator}))


def _save(out: Path, made: Embeddings) -> None:
    write_embeddings(out, made)
    excluded = f", {len(made.source['excluded'])} identities excluded" if "excluded" in made.source else ""
    known = f"encoder {made.encoder[:12]}" if made.encoder else "encoder not recorded: only the size will be checked"
    print(f"{len(made.ids)} anchors of size {made.vectors.shape[1]} in {out}{excluded}; {known}")


def _lines(path: Path | None) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()] if path else []
