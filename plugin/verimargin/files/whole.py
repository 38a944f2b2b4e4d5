"""Files and folders that appear under their name when they are complete, and leave nothing behind otherwise."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """The path to write the file to: a hidden file next to `path`, with the same ending, that is renamed at the end."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The folder to write the files to: a hidden folder next to `path` that is renamed at the end.

    Raises:
        FileExistsError: `path` is a file or a folder that is not empty.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already: move it, or give another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial)
        raise


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
