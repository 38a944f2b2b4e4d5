"""The command line. Commands that need a toolkit live with its adapter, and are found by entry point."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

from ..files import hparams as recipes

try:
    import typer
except ImportError:
    sys.exit("verimargin: the command line needs some packages more: pip install 'verimargin[cli]'")


def main() -> None:
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Verification losses for SpeechBrain and InsightFace's arcface_torch.",
    )
    app.command()(hparams)
    for entry in sorted(entry_points(group="verimargin.commands")):
        command = entry.load()
        if isinstance(command, typer.Typer):  # several commands under one name
            app.add_typer(command, name=entry.name)
        else:
            app.command(name=entry.name)(command)
    try:
        app()
    except ModuleNotFoundError as error:
        sys.exit(
            f"verimargin: {error}: pip install 'verimargin[cli,speechbrain,insightface]' has all that commands need"
        )
    except (ValueError, OSError) as error:  # what was given is wrong, and the message says what to do
        sys.exit(f"verimargin: {error}")


def hparams(
    name: Annotated[str, typer.Argument(help="a recipe's file name, as listed without it")] = "",
    folder: Annotated[Path, typer.Argument(help="where to copy it")] = Path("."),
) -> None:
    """List the recipes and configs, or copy the one NAMEd into FOLDER."""
    if not name:
        for known in recipes.names():
            print(known)
        return
    source = recipes.path(name)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give an existing one")
    target = folder / source.name
    if target.exists():
        raise FileExistsError(f"{target} exists already: move it, or give another folder")
    shutil.copyfile(source, target)
    print(f"copied {source.name} to {target}")
