"""An image folder, with one folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def check_class_folders(folder: str | Path) -> None:
    """Refuse a folder whose folders hold folders only, such as train and val: each would be read as one class.

    torchvision's ImageFolder would read it so.

    Raises:
        ValueError: a class holds no file, but folders.
    """
    for _ in _classes(folder):
        pass


def count_images(folder: str | Path) -> int:
    """The number of images in the folders of the classes; raises the errors of `check_class_folders`."""
    return sum(part.name.lower().endswith(SUFFIXES) for inside in _classes(folder) for part in inside)


def _classes(folder: str | Path) -> Iterator[list[os.DirEntry]]:
    """What is in the folder of each class, in the order of their names."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        inside = list(os.scandir(entry)) if entry.is_dir() else []
        if inside and all(part.is_dir() for part in inside):
            raise ValueError(
                f"{entry.path} would be one class, but holds only folders, such as {inside[0].name}: give the folder "
                f"whose folders are the classes, perhaps {entry.path} itself"
            )
        yield inside


def images_of(folder: str | Path) -> list[Path]:
    """The images of an image folder, sorted by class and name; the class of an image is the name of its folder.

    Raises:
        ValueError: `folder` is no folder, has no class with an image, or a class that `check_class_folders` refuses.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one with a folder of images for each identity")
    check_class_folders(folder)
    found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(
            f"{folder} has no folder with images ({', '.join(SUFFIXES)}): give one with a folder of images for each "
            "identity"
        )
    return found
