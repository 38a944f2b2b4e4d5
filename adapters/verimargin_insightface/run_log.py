"""The settings of a run, as train_v2.py writes them to the training.log in its output folder."""

from __future__ import annotations

import re
from pathlib import Path

from verimargin.files.reading import read_text

NAME = "training.log"
SETTING = re.compile(r"Training: .*?-: (\w+) +(\S.*)")


def read_settings(folder: Path) -> dict[str, str]:
    """The text of each setting; of a resumed run those of its last start. Empty if there is no log.

    A setting with a name of 25 letters or more has no space behind it there, and is not read.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    found = map(SETTING.fullmatch, read_text(path).splitlines())
    return {match[1]: match[2].rstrip() for match in found if match}
