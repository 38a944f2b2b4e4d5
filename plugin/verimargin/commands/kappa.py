"""`verimargin kappa`: which classes are hard, according to a checkpoint of a KappaFace training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files.class_names import read_class_names
from ..files.kappa_state import ClassKappa, read_kappa
from . import plots, report

SHOWN = 10  # of the hardest and of the easiest classes
NAMED = 3  # of each in the plot
MARKERS = "os^DvX"
LONGEST = 24  # characters of a name in the plot


def kappa(
    checkpoint: Annotated[Path, typer.Argument(help="SpeechBrain's kappa.ckpt or arcface_torch's checkpoint_gpu_0.pt")],
    out: Annotated[
        Path, typer.Argument(help="the folder for kappa.csv, kappa.png and kappa.svg, which is made if necessary")
    ],
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
    print(f"wrote {out / 'kappa.csv'}, {out / 'kappa.png'} and {out / 'kappa.svg'}")


def plot(rows: list[ClassKappa], path: Path) -> None:
    """Plot kappa and psi against the size of the class, and name the extreme classes in the legend."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    by_kappa = sorted(rows, key=lambda row: row.kappa)
    named = list(dict.fromkeys([*by_kappa[:NAMED], *by_kappa[-NAMED:]]))
    logarithmic = by_kappa[0].kappa > 0
    alt = "Concentration and margin factor of each class over its number of training samples"
    with plots.figure(path, 2, figsize=(9, 4.2), alt=alt) as panels:
        for axes, name in zip(panels, ("kappa", "psi")):
            axes.scatter(
                [row.samples for row in rows], [getattr(row, name) for row in rows], s=8, c=plots.SERIES[6], alpha=0.5
            )
            for n, row in enumerate(named):
                axes.plot(row.samples, getattr(row, name), MARKERS[n], color=plots.SERIES[n], label=_short(row.name))
            axes.set(xlabel="training samples of the class")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        panels[0].set(title="concentration: low is hard", yscale="log" if logarithmic else "linear")
        panels[0].set(ylabel="kappa (logarithmic)" if logarithmic else "kappa")
        if logarithmic:
            panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panels[0].yaxis.set_minor_formatter(NullFormatter())
        panels[1].set(title="margin factor", ylabel="psi")
        handles, labels = panels[0].get_legend_handles_labels()
        title = f"the {NAMED} hardest and the {NAMED} easiest" if len(named) == 2 * NAMED else "from hard to easy"
        panels[0].figure.legend(handles, labels, loc="outside right upper", title=title)


def _short(name: str) -> str:
    """The name, or its end if it is long: names are often paths."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


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
