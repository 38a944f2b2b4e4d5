"""The folder of a demo: of one demo with one group of settings, and of one process at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files.reading import read_text
from ..files.whole import alone, whole

LEFTOVER = ".*.partial*"  # of files.whole


@contextmanager
def demo_folder(output: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Make the folder, or take that of the same demo, for this process alone, without what a killed demo left.

    Raises:
        ValueError: the seed in the settings is negative; the folder holds something else, or a demo with other
            settings; or another process writes there.
    """
    if settings["seed"] < 0:
        raise ValueError(f"seed is {settings['seed']}: give an integer >= 0")
    same_settings(output, settings)
    with alone(output / "settings.json"):
        remove_leftovers(output)
        yield


def same_settings(output: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder with a demo of other settings, which would mix old results with new ones."""
    path = output / "settings.json"
    settings = json.loads(json.dumps(settings))  # as they are read again: tuples become lists
    if path.exists():
        try:
            known = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}): give another folder") from error
        if known != settings:
            raise ValueError(f"{output} holds a demo with other settings ({path}): give another folder")
        return
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: give a folder")
    if output.exists() and any(not path.name.startswith(".") for path in output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no demo: give another folder")
    output.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def remove_leftovers(output: Path) -> None:
    """Remove what a killed demo was writing."""
    for path in sorted(output.rglob(LEFTOVER)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
