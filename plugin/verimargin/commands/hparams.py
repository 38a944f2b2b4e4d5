"""`verimargin hparams`: the recipes and configs that ship with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ..files import hparams as recipes
from ..files.whole import whole


def hparams(
    name: Annotated[str, typer.Argument(help="a recipe's name, as it stands in the list")] = "",
    folder: Annotated[Path, typer.Argument(help="the folder to copy the recipe to")] = Path("."),
) -> None:
    """List the recipes, configs and experiments that ship with the package, or copy the one called NAME to FOLDER."""
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
    with whole(target) as partial:
        shutil.copyfile(source, partial)
    print(f"copied {source.name} to {target}")
