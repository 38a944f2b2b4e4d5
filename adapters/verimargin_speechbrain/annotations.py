"""The recordings, or segments of recordings, in the CSV files that SpeechBrain's data preparation writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from verimargin.files.reading import read_text

COLUMNS = ("ID", "wav", "start", "stop", "spk_id")


def read_recordings(annotations: Sequence[Path]) -> list[dict[str, str]]:
    """The rows of all annotations, each recording once; an ID that names two different recordings is refused."""
    rows: dict[str, dict[str, str]] = {}
    for annotation in annotations:
        for row in read_annotation(annotation):
            known = rows.setdefault(row["ID"], row)
            if any(known[column] != row[column] for column in COLUMNS):
                raise ValueError(
                    f"{annotation} has the ID {row['ID']} for another recording than before ({known['wav']}, samples "
                    f"{known['start']} to {known['stop']}): give each recording its own ID"
                )
    return list(rows.values())


def read_annotation(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that SpeechBrain's data preparation wrote."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a CSV that the recipe's preparation wrote")
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error
    missing = set(COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(sorted(missing))}, or no rows: give train.csv or a file like it"
        )
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(
                f"row {number} of {path} has more or fewer values than the {len(rows[0])} columns: correct it"
            )
        if not (row["start"].isdecimal() and row["stop"].isdecimal() and int(row["start"]) < int(row["stop"])):
            raise ValueError(
                f"row {number} of {path} is samples {row['start']!r} to {row['stop']!r}: give two integers, the first "
                "the smaller one"
            )
    return rows
