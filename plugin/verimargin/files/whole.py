"""Files and folders that appear under their name when they are complete, and leave nothing behind otherwise."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """The path to write the file to: a hidden file next to `path`, with the same ending, that is renamed at the end.

    Where `path` is a link, the file that it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    partial = _hidden(path, f".partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The folder to write the files to: a hidden folder next to `path` that is renamed at the end.

    Raises:
        FileExistsError: `path` is a file, a folder that is not empty, or the working directory.
    """
    named, path = path, Path(os.path.realpath(path))
    if path.exists() and (not path.is_dir() or any(path.iterdir()) or path == Path.cwd()):
        raise FileExistsError(f"{named} exists already: move it, or give another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _hidden(path, ".partial")
    partial.mkdir()
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _hidden(path: Path, ending: str) -> Path:
    """A name of its own beside `path`: two writers never share one, whatever machine or thread they are on."""
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{ending}")


def new_file(path: str | os.PathLike, suffix: str) -> Path:
    """The path, if a new file of that kind can be written there; commands ask this before they compute anything.

    Raises:
        ValueError: the path has another suffix, or its folder does not exist.
        FileExistsError: the file exists.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{path} has to be an {suffix} file: give it that ending")
    if path.exists():
        raise FileExistsError(f"{path} exists already: move it, or give another name")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: make it first")
    return path
