"""An image folder, with one folder of images for each class, before torchvision's ImageFolder reads it."""

from __future__ import annotations

import os
from pathlib import Path


def check_class_folders(folder: str | Path) -> None:
    """Refuse a folder whose folders hold folders only, such as train and val: each would be read as one class.

    Raises:
        ValueError: a class holds no file, but folders.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        inside = list(os.scandir(entry)) if entry.is_dir() else []
        if inside and all(part.is_dir() for part in inside):
            raise ValueError(
                f"{entry.path} would be one class, but holds only folders, such as {inside[0].name}: give the folder "
                f"whose folders are the classes, perhaps {entry.path} itself"
            )
