"""`verimargin embed-faces`: embeds a training set of faces in the way the IJB evaluators embed their images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from verimargin.commands.options import DeviceOption, SeedOption
from verimargin.commands.output import new_output
from verimargin.files.choice import choose
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint

from ..backbone import load_encoder
from ..training_images import decode, open_images
from .images import embed_images


@new_output(".npz")
def embed_faces(
    data: Annotated[Path, typer.Argument(help="a folder with train.rec and train.idx, or with one folder per class")],
    encoder: Annotated[Path, typer.Argument(help="the model.pt or .onnx file that is to be evaluated")],
    out: Annotated[Path, typer.Argument(help="a new .npz, for verimargin anchors real and train-ssr")],
    network: Annotated[
        str, typer.Option(help="the network of a model.pt, such as r50; run the command in arcface_torch's folder then")
    ] = "",
    per_identity: Annotated[
        int, typer.Option(min=0, help="how many random images to take of each identity; 0 for all")
    ] = 0,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="images per batch")] = 64,
    device: DeviceOption = "cpu",
) -> None:
    """Embed the training images of DATA with the ENCODER, and write them to OUT with their identities.

    The embeddings of an image and of its mirror image are added, as in the evaluators. The identities are those of the
    training: class numbers for a RecordIO set, folder names for an image folder. After an interruption, the same
    command continues where it stopped.
    """
    images = open_images(data)
    chosen = choose(images.labels, per_identity, seed)
    encoder_weights = fingerprint(encoder)
    key = [encoder_weights, network, str(data.resolve()), batch_size, [images.ids[n] for n in chosen]]
    embed = load_encoder(encoder, network, device)
    vectors = embed_images(out, len(chosen), lambda n: decode(images.read(int(chosen[n]))), embed, key, batch_size)
    labels = images.names[images.labels[chosen]].tolist()
    ids = [images.ids[n] for n in chosen]
    source = {"data": data.resolve().name, "per_identity": per_identity, "seed": seed}
    write_embeddings(out, Embeddings(ids, torch.from_numpy(vectors), labels, encoder_weights, source))
    print(f"{len(chosen)} embeddings of {len(set(labels))} identities in {out}")
