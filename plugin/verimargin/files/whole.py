"""Files that commands read and write."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import numpy as np

ENCODED = re.compile(r"'(.*)' => (\d+)")  # a line of SpeechBrain's label encoder


def new_file(path: str | Path, suffix: str) -> Path:
    """The path, of a file that can be made under that name."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{path} is to be an {suffix} file: give it that ending")
    if path.exists():
        raise FileExistsError(f"{path} exists already: move it, or give another name")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: make it first")
    return path


def save_npz(path: Path, **arrays) -> None:
    """An `.npz` of the arrays; nothing stands under its name before all is written."""
    partial = path.with_name(f".{path.stem}.partial.npz")
    try:
        np.savez(partial, **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def class_names(path: Path) -> list[str]:
    """The classes' names in their order: the lines of a file, SpeechBrain's label_encoder.txt, or an image folder's
    folders.
    """
    if path.is_dir():
        return sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a file of names, one a line, or the image folder")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not ENCODED.fullmatch(lines[0]):
        return lines
    encoded = filter(None, map(ENCODED.fullmatch, takewhile(ENCODED.fullmatch, lines)))  # its settings come behind
    return [name for _, name in sorted((int(match[2]), match[1]) for match in encoded)]
