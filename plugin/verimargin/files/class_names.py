"""The names of a training set's classes, in class order."""

from __future__ import annotations

import re
from collections import Counter
from itertools import takewhile
from pathlib import Path

from .reading import check_regular, read_text

ENCODED = re.compile(r"'(.*)' => (\d+)")  # a line of SpeechBrain's label encoder


def read_class_names(path: Path) -> list[str]:
    """The lines of a file, the speakers in SpeechBrain's label_encoder.txt, or the subfolders of an image folder.

    Raises:
        ValueError: there is no such file, it has no names, or a name is empty or repeated.
    """
    check_regular(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a file with one name per line, or the image folder")
    names = sorted(folder.name for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else _listed(path)
    if not names:
        what = "no subfolders: give the image folder, which has one for each class" if path.is_dir() else "no names"
        raise ValueError(f"{path} has {what}")
    if not all(map(str.strip, names)):
        raise ValueError(f"line {[bool(name.strip()) for name in names].index(False) + 1} of {path} has no name")
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"{path} has the name {repeated[0]} more than once: give each class a name of its own")
    return names


def _listed(path: Path) -> list[str]:
    lines = read_text(path).splitlines()
    if not lines or not ENCODED.fullmatch(lines[0]):
        return lines
    encoded = filter(None, map(ENCODED.fullmatch, takewhile(ENCODED.fullmatch, lines)))  # the encoder's settings follow
    return [name for _, name in sorted((int(match[2]), match[1]) for match in encoded)]
