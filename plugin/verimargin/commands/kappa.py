"""`verimargin kappa`: which classes are hard, according to a checkpoint of a KappaFace training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files.class_names import read_class_names
from ..files.kappa_state import ClassKappa, read_kappa
from . import plots, report

SHOWN = 10  # of the hardest and of the easiest classes


def kappa(
    checkpoint: Annotated[Path, typer.Argument(help="SpeechBrain's kappa.ckpt or arcface_torch's checkpoint_gpu_0.pt")],
    out: Annotated[Path, typer.Argument(help="the folder for kappa.csv and kappa.png, which is made if necessary")],
    names: Annotated[
        Path | None,
        typer.Option(
            help="the names of the classes: a file with one per line, or the image folder; kappa.ckpt has them already"
        ),
    ] = None,
) -> None:
    """Write concentration kappa and margin factor psi of each class as a table and a plot, and show the extremes."""
    rows = read_kappa(checkpoint, None if names is None else read_class_names(names))
    out.mkdir(parents=True, exist_ok=True)
    report.write_csv(out / "kappa.csv", ClassKappa._fields, rows)
    plot(rows, out / "kappa.png")
    _show(rows)
    print(f"wrote {out / 'kappa.csv'} and {out / 'kappa.png'}")


def plot(rows: list[ClassKappa], path: Path) -> None:
    """Plot kappa and psi against the size of the class, with the names of the extreme classes."""
    samples = [row.samples for row in rows]
    by_kappa = sorted(rows, key=lambda row: row.kappa)
    with plots.figure(path, 2, figsize=(10, 4.5)) as panels:
        for axes, name in zip(panels, ("kappa", "psi")):
            axes.scatter(samples, [getattr(row, name) for row in rows], s=8, alpha=0.5)
            axes.set(xlabel="training samples of the class", ylabel=name)
            for row in {*by_kappa[:3], *by_kappa[-3:]}:
                axes.annotate(row.name, (row.samples, getattr(row, name)), fontsize="x-small", parse_math=False)
        panels[0].set(title="concentration: low is hard", yscale="log" if by_kappa[0].kappa > 0 else "linear")
        panels[1].set(title="margin factor")


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
