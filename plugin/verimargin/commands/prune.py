"""`verimargin prune`: the dominant sub-centre of each class, and the training samples that are far from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.nn import functional as F

from .._checks import EPS
from ..files.anchors import encoder_beside
from ..files.class_names import read_class_names
from ..files.embeddings import read_labelled_embeddings
from ..files.prototypes import PRUNED, read_prototypes
from ..files.whole import whole_folder
from ..head.subcenters import LARGEST_ANGLE, prune_subcenters
from . import report
from .options import FolderArgument, TrainingArgument

SUSPICIOUS = 0.5  # the share of far samples above which something else than label noise is wrong


def prune(
    checkpoint: Annotated[
        Path, typer.Argument(help="classifier.ckpt, checkpoint_gpu_0.pt, or the folder with those of all ranks")
    ],
    embeddings: TrainingArgument,
    out: FolderArgument,
    names: Annotated[
        Path | None,
        typer.Option(
            help="the identities of the classes: label_encoder.txt, a file with one per line, or the image folder; "
            "not needed if the labels of the embeddings are class numbers"
        ),
    ] = None,
    largest_angle: Annotated[
        float, typer.Option(help="in degrees: a sample that is further from its class's dominant centre is removed")
    ] = LARGEST_ANGLE,
) -> None:
    """Keep the dominant sub-centre of each class, and list the training samples that fall away.

    OUT gets prototypes.pt, a state dict with the one prototype of each class, samples.csv, with the angle of every
    sample, and removed.txt, the ids of the samples that a cleaned training set should leave out. The encoder that lies
    beside the checkpoint is copied too: in arcface_torch, config.pretrained takes OUT.
    """
    with whole_folder(out) as folder:
        weight, given = read_prototypes([checkpoint]), read_labelled_embeddings(embeddings)
        class_names = read_class_names(names) if names else None
        labels = class_numbers(given.labels, class_names)
        pruned = prune_subcenters(weight, given.vectors, labels, largest_angle)
        torch.save({"weight": pruned.weight}, folder / PRUNED)
        if (encoder := encoder_beside([checkpoint])) is not None:
            shutil.copyfile(encoder, folder / encoder.name)
        columns = labels.tolist(), pruned.nearest.tolist(), pruned.angle.tolist(), pruned.kept.tolist()
        rows = list(zip(given.ids, *columns))
        report.write_csv(folder / "samples.csv", ("id", "class", "subcenter", "angle", "kept"), rows)
        removed = [row[0] for row in rows if not row[-1]]
        (folder / "removed.txt").write_text("".join(f"{name}\n" for name in removed), encoding="utf-8")
    share = len(removed) / max(len(rows), 1)
    print(
        f"{len(removed)} of {len(rows)} samples ({share:.1%}) are more than {largest_angle:g} degrees from the "
        f"dominant centre of their class: wrote prototypes.pt, samples.csv and removed.txt to {out}"
    )
    if share > SUSPICIOUS:
        print(f"{mismatch(weight, given.vectors, labels, pruned.kept, class_names)} Do not train with these files.")


def mismatch(
    weight: torch.Tensor, vectors: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor, names: list[str] | None
) -> str:
    """What is probably wrong if most samples are far, shown by the class with most of them."""
    worst = int(labels[~kept].bincount(minlength=len(weight)).argmax())
    mean = F.normalize(vectors[labels == worst]).mean(0)
    nearest = int((weight @ mean / weight.norm(dim=-1).clamp_min(EPS)).amax(1).argmax())
    known = dict(enumerate(names or []))  # a head may have more classes than there are names
    own, other = (f"{number} ({known[number]})" if number in known else str(number) for number in (worst, nearest))
    if nearest == worst:
        return "So many are no label noise: the embeddings are probably of another encoder than the head's."
    order = "the names are probably not in the order of" if names else "the labels are probably not the numbers of"
    return (
        f"So many are no label noise: {order} the head's classes. The samples of class {own}, for one, are nearest to "
        f"the prototypes of class {other}."
    )


def class_numbers(labels: list[str], names: list[str] | None) -> torch.Tensor:
    """The class (N,) of each embedding, by the names of the classes or by the numbers that its labels are."""
    if names is None:
        if unknown := [label for label in labels if not label.isdecimal()]:
            raise ValueError(
                f"the label {unknown[0]!r} is no class number: give --names, the identities in class order"
            )
        return torch.tensor([int(label) for label in labels])
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [label for label in labels if label not in numbers]:
        raise ValueError(
            f"{unknown[0]!r} is not among the {len(names)} names: give those that the head was trained with"
        )
    return torch.tensor([numbers[label] for label in labels])
