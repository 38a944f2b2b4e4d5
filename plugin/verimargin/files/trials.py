"""Trial lists: VoxCeleb's (`<1 or 0> <enrol> <test>`) and IJB's (`<template> <template> <1 or 0>`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .named_lines import named_lines, read_blocks

LINES_EXAMINED = 10_000  # to tell the two formats apart
LARGEST_TABLE = 2**24


class Trials(NamedTuple):
    """The embeddings that each trial compares, as positions among the ids, and whether they have the same identity."""

    enrol: np.ndarray
    test: np.ndarray
    same: np.ndarray


def read_trials(path: str | Path, ids: Sequence[str]) -> Trials:
    """The trials of a list, in its order, for embeddings with these ids.

    In VoxCeleb's lists a name is that of an id, or one of the two has a file extension that the other has not, as in
    SpeechBrain's scripts. Two different extensions never match, nor does a name that fits several ids. A list of
    integers is read as IJB's, unless its first column holds only 0 and 1 and its last column does not. IJB-C's 15.6
    million lines take seconds.

    Raises:
        ValueError: there is no such file, a line has neither format, an id has no embedding, a trial is listed twice,
            a pair is labelled both 0 and 1, or there are no target or no non-target trials.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the trial list {path} does not exist: give the path of a trial list")
    enrol, test, same = _read_templates(path, ids) if holds_templates(path) else _read_names(path, ids)
    if same.all() or not same.any():
        kind = "non-target trial (label 0)" if len(same) and same[0] else "target trial (label 1)"
        raise ValueError(f"{path} has no {kind} among {len(same)}: error rates need both kinds")
    _check_distinct(path, enrol, test, same, ids)
    return Trials(enrol, test, same)


def named_trials(path: str | Path) -> Iterator[tuple[bool, str, str]]:
    """The label and both names of each line of a VoxCeleb list; an error names a line that has another format."""
    with open(path, encoding="utf-8") as lines:
        yield from named_lines(lines, path)


def trial_names(path: str | Path) -> list[str]:
    """The names on the lines of a VoxCeleb list, each once; an error names a line that has another format."""
    names: list[str] = []

    def number(name: str) -> int:
        names.append(name)
        return len(names)

    for _ in read_blocks(path, number):
        pass
    return names


def count_lines(path: str | Path) -> int:
    """The number of lines of a file; that of trials, if it is a list of them."""
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(2**20):
            lines, last = lines + block.count(b"\n"), block[-1:]
    return lines + (last != b"\n")


def holds_templates(path: Path) -> bool:
    """Whether a list is read as IJB's."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        rows = [line.split() for line in islice(lines, LINES_EXAMINED)]
    if not rows or len(rows[0]) != 3 or not all(part.isdecimal() for part in rows[0]):
        return False
    first, last = ({row[column] for row in rows if len(row) == 3} <= {"0", "1"} for column in (0, 2))
    return last or not first


def identities(trials: Trials, ids: Sequence[str]) -> np.ndarray:
    """A number (N,) for each embedding, equal for embeddings of the same identity.

    The identity is the first folder of the id (VoxCeleb's speaker), if that agrees with all labels. Otherwise
    embeddings that target trials link, directly or through others, have the same identity.

    Raises:
        ValueError: the folders say of all labels that they are swapped, or a non-target trial compares two embeddings
            that target trials link.
    """
    enrol, test, same = trials
    folders = np.unique([name.split("/")[0] for name in ids], return_inverse=True)[1].astype(np.int32)
    agree = (folders[enrol] == folders[test]) == same
    if agree.all():
        return folders
    if not agree.any() and any("/" in name for name in ids):
        raise ValueError(
            f"all labels contradict the folders of the ids, as 0 for {ids[enrol[same.argmin()]]} and "
            f"{ids[test[same.argmin()]]} does: give 1 for two samples of one identity, and 0 for samples of two"
        )
    linked = _linked(enrol[same], test[same], len(ids))
    if (wrong := (linked[enrol] == linked[test]) & ~same).any():
        t = int(np.argmax(wrong))
        raise ValueError(
            f"trial {t + 1} is labelled 0, but target trials link {ids[enrol[t]]} with {ids[test[t]]}: "
            "one of their labels is wrong"
        )
    return linked


def _read_templates(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        columns = np.loadtxt(path, dtype=np.int64, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"{path} is not '<template> <template> <1 or 0>' on every line: {error}") from error
    if (bad := columns[:, 2] & ~1 != 0).any():
        t = int(np.argmax(bad))
        raise ValueError(f"trial {t + 1} of {path} has the label {columns[t, 2]}: give 1 or 0 in the third column")
    if bad := next((name for name in ids if not name.isdecimal() or name != str(int(name))), ""):
        raise ValueError(f"{path} names templates by numbers, but the embeddings have ids such as {bad!r}")
    numbers = np.array(ids).astype(np.int64)
    enrol, test = (_places(numbers, column) for column in columns.T[:2])
    for column, place in zip(columns.T, (enrol, test)):
        if (unknown := place < 0).any():
            _refuse_unknown(path, np.unique(column[unknown]).tolist(), ids)
    return enrol, test, columns[:, 2] == 1


def _places(numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The position of each wanted number among the numbers, or -1; fast for small numbers, such as IJB's."""
    highest = int(numbers.max())
    if numbers.min() >= 0 and highest < LARGEST_TABLE:
        table = np.full(highest + 2, -1, dtype=np.int32)  # the last entry is for numbers outside the table
        table[numbers] = np.arange(len(numbers), dtype=np.int32)
        return table[np.where((wanted >= 0) & (wanted <= highest), wanted, -1)]
    order = np.argsort(numbers)
    place = order[np.searchsorted(numbers, wanted, sorter=order).clip(max=len(numbers) - 1)]
    return np.where(numbers[place] == wanted, place, -1).astype(np.int32)


def _read_names(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    by_id = {name: position for position, name in enumerate(ids)}
    by_stem: dict[str, int] = {}
    for position, name in enumerate(ids):
        stem = _stem(name)
        by_stem[stem] = -1 if stem in by_stem else position  # -1: several ids have this stem
    unknown: list[str] = []

    def position_of(name: str) -> int:
        position = by_id.get(name, -1)
        if position < 0:
            stem = _stem(name)
            position = by_stem.get(stem, -1) if stem == name else by_id.get(stem, -1)
            if position < 0:
                unknown.append(name)
        return position

    labels, positions = zip(*read_blocks(path, position_of)) if path.stat().st_size else ((), ())
    if unknown:
        _refuse_unknown(path, unknown, ids)
    if not labels:
        raise ValueError(f"the trial list {path} is empty")
    enrol, test = (np.concatenate([block[:, side] for block in positions]) for side in (0, 1))
    return enrol, test, np.concatenate(labels)


def _stem(name: str) -> str:
    """The name without its file extension, which begins at the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _refuse_unknown(path: Path, unknown: list, ids: Sequence[str]) -> None:
    others = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    raise ValueError(
        f"{path} names {', '.join(map(str, unknown[:3]))}{others}, for which there is no embedding (an id of the "
        f"embeddings is {ids[0]}): give an embedding for every name in the list"
    )


def _check_distinct(path: Path, enrol: np.ndarray, test: np.ndarray, same: np.ndarray, ids: Sequence[str]) -> None:
    """Refuse a pair that is listed twice in the same order, or with both labels."""
    labelled = np.minimum(enrol, test).astype(np.int64)  # changed in place: long lists have long keys
    labelled *= len(ids)
    labelled += np.maximum(enrol, test)
    labelled <<= 2
    labelled += 2 * same.view(np.int8)
    labelled += enrol > test
    labelled.sort()
    differs = labelled[1:] ^ labelled[:-1]  # of one pair in the last two bits only
    contrary, twice = (differs == 2) | (differs == 3), differs == 0
    for wrong, text in (
        (contrary, "labels the pair {one}, {other} both 1 and 0: correct the list"),
        (twice, "lists {count} trials more than once, such as {one}, {other}: keep each once (awk '!seen[$0]++' LIST)"),
    ):
        if wrong.any():
            one, other = divmod(int(labelled[int(np.argmax(wrong))] >> 2), len(ids))
            raise ValueError(f"{path} " + text.format(one=ids[one], other=ids[other], count=int(wrong.sum())))


def _linked(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """For each position, the smallest one that it is linked with, directly or through other pairs."""
    smallest = np.arange(count, dtype=np.int32)
    while True:
        least = np.minimum(smallest[one], smallest[other])
        merged = smallest.copy()
        for side in (one, other):
            np.minimum.at(merged, side, least)
            np.minimum.at(merged, smallest[side], least)
        merged = merged[merged]
        if (merged == smallest).all():
            return smallest
        smallest = merged
