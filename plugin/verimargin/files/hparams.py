"""The recipes that ship with the package: SpeechBrain hparams and arcface_torch configs."""

from __future__ import annotations

import difflib
from pathlib import Path


def folder() -> Path:
    """The folder of the recipes: inside an installed package, or beside the sources of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "hparams", package.parents[1] / "hparams") if path.is_dir())


def names() -> list[str]:
    """The names of all recipes, as `<toolkit>/<file>`."""
    files = (path for kind in ("*/*.yaml", "*/*.py") for path in folder().glob(kind))
    return sorted(path.relative_to(folder()).as_posix() for path in files)


def path(name: str) -> Path:
    """The path of the recipe named `<toolkit>/<file>` or just `<file>`.

    Raises:
        ValueError: there is no such recipe.
    """
    found = [known for known in names() if name in (known, known.split("/")[1])]
    if len(found) != 1:
        close = difflib.get_close_matches(name, [*names(), *(known.split("/")[1] for known in names())], 1)
        listed = f"the recipes are {', '.join(names())}"
        raise ValueError(
            f"there is no recipe {name!r}: " + (f"did you mean {close[0]}? T{listed[1:]}" if close else listed)
        )
    return folder() / found[0]
