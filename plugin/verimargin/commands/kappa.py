"""`verimargin kappa`: which classes are hard, from a checkpoint of a KappaFace training."""

from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from ..files.whole import class_names

SHOWN = 10  # of the hardest and of the easiest classes


class ClassKappa(NamedTuple):
    """A class's line of the table; `margin` of the loss is psi times its m."""

    class_id: int
    name: str
    samples: int
    kappa: float
    psi: float


def kappa(
    checkpoint: Annotated[Path, typer.Argument(help="SpeechBrain's kappa.ckpt, arcface_torch's checkpoint_gpu_0.pt")],
    out: Annotated[Path, typer.Argument(help="a folder, made if need be, for kappa.csv and kappa.png")],
    names: Annotated[
        Path | None,
        typer.Option(help="names of the classes: a file, one a line, or the image folder; SpeechBrain's are in it"),
    ] = None,
) -> None:
    """Write each class's concentration kappa and margin factor psi as a table and a plot, and show the extremes."""
    rows = read(checkpoint, None if names is None else class_names(names))
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, out / "kappa.csv")
    plot(rows, out / "kappa.png")
    _show(rows)
    print(f"wrote {out / 'kappa.csv'} and {out / 'kappa.png'}")


def read(checkpoint: Path, names: list[str] | None = None) -> list[ClassKappa]:
    """The classes of a checkpoint that holds a `KappaTracker`'s state anywhere in it.

    Raises:
        ValueError: not a checkpoint, none or several trackers in it, none after an epoch, or another number of names.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{checkpoint} is not a checkpoint that torch.load opens safely: {error}") from None
    found = list(_trackers(content, None))
    if len(found) != 1:
        raise ValueError(
            f"{checkpoint} holds {len(found)} KappaFace states: give SpeechBrain's kappa.ckpt, or a checkpoint of "
            "arcface_torch trained with config.kappa"
        )
    state, saved_names = found[0]
    if not int(state["epoch"]):
        raise ValueError(f"{checkpoint} was saved before the first epoch ended: there is no kappa yet")
    names = names or saved_names or [str(i) for i in range(len(state["psi"]))]
    if len(names) != len(state["psi"]):
        raise ValueError(f"there are {len(names)} names, {checkpoint} has {len(state['psi'])} classes: give those")
    values = (state[key].tolist() for key in ("class_counts", "kappa", "psi"))
    return [ClassKappa(*row) for row in zip(range(len(names)), names, *values)]


def write_csv(rows: list[ClassKappa], path: Path) -> None:
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ClassKappa._fields)
        writer.writerows(rows)
    os.replace(part, path)


def plot(rows: list[ClassKappa], path: Path) -> None:
    """kappa and psi against the size of the class; the extremes are named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    samples = [row.samples for row in rows]
    by_kappa = sorted(rows, key=lambda row: row.kappa)
    for axes, of in zip(figure.subplots(1, 2), ("kappa", "psi")):
        axes.scatter(samples, [getattr(row, of) for row in rows], s=8, alpha=0.5)
        axes.set(xlabel="training samples of the class", ylabel=of)
        for row in {*by_kappa[:3], *by_kappa[-3:]}:
            axes.annotate(row.name, (row.samples, getattr(row, of)), fontsize="x-small", parse_math=False)
    figure.axes[0].set(title="concentration: low is hard", yscale="log" if by_kappa[0].kappa > 0 else "linear")
    figure.axes[1].set(title="margin factor")
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=150)
    os.replace(part, path)


def _trackers(content: Any, names: list[str] | None) -> Iterator[tuple[dict[str, torch.Tensor], list[str] | None]]:
    """Each KappaTracker's state in nested state dicts, with the names of its classes if they are beside it."""
    if not isinstance(content, Mapping):
        return
    names = next(
        (value["class_names"] for value in content.values() if isinstance(value, Mapping) and "class_names" in value),
        names,
    )
    keys = ("psi", "kappa", "epoch", "class_counts")
    for key in content:
        prefix = str(key).removesuffix("class_counts")
        if prefix != str(key) and all(prefix + name in content for name in keys):
            yield {name: content[prefix + name] for name in keys}, names
    for value in content.values():
        yield from _trackers(value, names)


def _show(rows: list[ClassKappa]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    by_kappa = sorted(rows, key=lambda row: row.kappa)
    for title, part in (("hardest", by_kappa[:SHOWN]), ("easiest", by_kappa[: -SHOWN - 1 : -1])):
        table = Table(*ClassKappa._fields, title=f"{title} of {len(rows)} classes")
        for row in part:
            table.add_row(str(row.class_id), escape(row.name), str(row.samples), f"{row.kappa:.4g}", f"{row.psi:.4f}")
        Console().print(table)
