"""Files that commands write."""

from __future__ import annotations

from pathlib import Path


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
