"""The names of a training set's classes, in class order."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

from .reading import check_regular, read_text

ENCODED = re.compile(r"'(.*)' => (\d+)")  # a line of SpeechBrain's label encoder


def read_class_names(path: Path) -> list[str]:
    """The lines of a file, the speakers in SpeechBrain's label_encoder.txt, or the subfolders of an image folder."""
    check_regular(path)
    if path.is_dir():
        return sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a file with one name per line, or the image folder")
    lines = read_text(path).splitlines()
    if not lines or not ENCODED.fullmatch(lines[0]):
        return lines
    encoded = filter(None, map(ENCODED.fullmatch, takewhile(ENCODED.fullmatch, lines)))  # the encoder's settings follow
    return [name for _, name in sorted((int(match[2]), match[1]) for match in encoded)]
