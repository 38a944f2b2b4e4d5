"""Lines `<1 or 0> <name> <name>`, read in blocks: the bytes of a block are taken apart all at once, and each distinct
name is looked at once in the whole file.

A block that is not plain (other characters than ASCII, a line that has another format) is read line by line, which
gives the same result or the error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

BLOCK = 2**22  # bytes of the file that are taken apart at once; the arrays for it take some ten times as much
MARK = "\ufeff"
LONGEST = 256  # bytes of a name that is compared as numbers
IN_WORD, SEPARATOR, END, UNUSUAL = range(4)
KIND = np.full(256, UNUSUAL, dtype=np.uint8)
KIND[33:127] = IN_WORD
KIND[[ord(c) for c in " \t\r"]] = SEPARATOR
KIND[ord("\n")] = END
MASK = np.array([2 ** (8 * size) - 1 for size in range(9)], dtype=np.uint64)  # keeps the first `size` bytes of a word
MIX = np.random.default_rng(0).integers(2**63, size=LONGEST // 8, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

Number = Callable[[str], int]


def named_lines(lines: Iterable[str], path: str | Path, first: int = 1) -> Iterator[tuple[bool, str, str]]:
    """The label and both names of each line; an error names a line that has another format, counted from `first`."""
    for number, line in enumerate(lines, first):
        parts = line.split()
        if number == 1 and line.startswith(MARK):
            raise ValueError(
                f"{path} begins with a byte order mark, which the toolkits' scripts take for a part of the first line: "
                "save it as UTF-8 without one"
            )
        if len(parts) != 3 or parts[0] not in ("0", "1"):
            raise ValueError(
                f"line {number} of {path} is {_shown(line)}: give '<1 or 0> <enrol wav> <test wav>', or three "
                "integers, '<template> <template> <1 or 0>', on every line"
            )
        yield parts[0] == "1", parts[1], parts[2]


def read_blocks(path: str | Path, number: Number, size: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The labels (n,) and the numbers (n, 2) of the names on n lines, for one part of the file after the other.

    Args:
        number: gives the number of a name. It is called in the order in which the names first occur, once for each.
        size: the bytes of a part.

    Raises:
        ValueError: a line has another format, or the file is no text.
    """
    names, first = _Names(number), 1
    for block in _whole_lines(path, size):
        text = np.frombuffer(block + bytes(LONGEST + 8), dtype=np.uint8)  # so that a word can be read at any place
        edges = _edges(text[: len(block)])
        if edges is None:
            lines = list(named_lines(_decoded(block, path), path, first))
            same = np.array([label for label, *_ in lines], dtype=bool)
            numbers = np.array([[names.number(name) for name in pair] for _, *pair in lines], dtype=np.int32)
        else:
            same = text[edges[:, 0]] == ord("1")
            numbers = names.numbers(text, edges[:, 2::2].reshape(-1), edges[:, 3::2].reshape(-1)).reshape(-1, 2)
        first += len(same)
        yield same, numbers


class _Names:
    """The numbers of the names that were seen, found by a hash and compared byte by byte."""

    def __init__(self, number: Number) -> None:
        self._number, self._by_name = number, dict[str, int]()
        self._hash, self._found = np.empty(0, np.uint64), np.empty(0, np.int32)  # sorted by the hash
        self._words = np.empty((0, 0), np.uint64)

    def number(self, name: str) -> int:
        if name not in self._by_name:
            self._by_name[name] = self._number(name)
        return self._by_name[name]

    def numbers(self, text: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The numbers of the words of the text that begin and end there."""
        words = _as_numbers(text, start, end - start)
        hashed, longest = _hash(words), max(len(words), len(self._words))
        words, self._words = _padded(words, longest), _padded(self._words, longest)
        found, known = self._look_up(words, hashed)
        if known.all():
            return found
        new = np.flatnonzero(~known)
        each = new[np.sort(np.unique(hashed[new], return_index=True)[1])]
        self._add(words[:, each], hashed[each], [self._read(text, start[n], end[n]) for n in each])
        found[new], known = self._look_up(words[:, new], hashed[new])
        for n in new[~known]:  # names that share their hash with another one
            found[n] = self._read(text, start[n], end[n])
        return found

    def _read(self, text: np.ndarray, start: int, end: int) -> int:
        return self.number(text[start:end].tobytes().decode("ascii"))

    def _look_up(self, words: np.ndarray, hashed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the words, and which words are known."""
        if not len(self._hash):
            return np.zeros(len(hashed), np.int32), np.zeros(len(hashed), bool)
        place = np.searchsorted(self._hash, hashed)
        place[place == len(self._hash)] = 0
        known = self._hash[place] == hashed
        for mine, theirs in zip(self._words, words):
            known &= mine[place] == theirs
        return self._found[place], known

    def _add(self, words: np.ndarray, hashed: np.ndarray, found: list[int]) -> None:
        """Remember words whose hashes are new and distinct; a hash that is known keeps its word."""
        fresh = ~np.isin(hashed, self._hash)
        hashes = np.concatenate([self._hash, hashed[fresh]])
        order = np.argsort(hashes)
        self._hash = hashes[order]
        self._found = np.concatenate([self._found, np.array(found, np.int32)[fresh]])[order]
        self._words = np.concatenate([self._words, words[:, fresh]], axis=1)[:, order]


def _edges(text: np.ndarray) -> np.ndarray | None:
    """Where the label and the two names of each line begin and end, (lines, 6); None if the text is not plain."""
    kind = KIND[text]
    returns = np.flatnonzero(text == ord("\r"))
    if (kind == UNUSUAL).any() or (text[returns + 1] != ord("\n")).any():
        return None
    inside, ends = kind == IN_WORD, np.flatnonzero(kind == END)
    changes = np.flatnonzero(np.diff(inside, prepend=False))
    if len(changes) != 6 * len(ends):
        return None
    edges = changes.reshape(-1, 6)
    on_its_line = (edges[:, 5] <= ends).all() and (edges[1:, 0] > ends[:-1]).all()
    label = text[edges[:, 0]]
    is_label = (edges[:, 1] - edges[:, 0] == 1) & ((label == ord("0")) | (label == ord("1")))
    longest = (edges[:, 3::2] - edges[:, 2::2]).max()
    return edges if on_its_line and is_label.all() and longest <= LONGEST else None


def _as_numbers(text: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The bytes of words, eight in a number and zeros behind them: (numbers of the longest word, words)."""
    at_any_place = np.ndarray(len(text) - 7, dtype="<u8", buffer=text, strides=(1,))
    parts = range(0, int(length.max()), 8)
    return np.stack([at_any_place[start + k] & MASK[(length - k).clip(0, 8)] for k in parts])


def _padded(words: np.ndarray, longest: int) -> np.ndarray:
    return np.pad(words, ((0, longest - len(words)), (0, 0))) if len(words) < longest else words


def _hash(words: np.ndarray) -> np.ndarray:
    """A number for each word that does not depend on the length of the longest one."""
    total = np.zeros(words.shape[1], np.uint64)
    for part, odd in zip(words, MIX):
        mixed = (part ^ (part >> np.uint64(32))) * odd
        total += mixed ^ (mixed >> np.uint64(29))
    return total


def _whole_lines(path: str | Path, size: int) -> Iterator[bytes]:
    """The file in parts of about `size` bytes, each of which ends with the end of a line."""
    with open(path, "rb") as file:
        while block := file.read(size):
            block += file.readline()
            yield block if block.endswith(b"\n") else block + b"\n"


def _decoded(block: bytes, path: str | Path) -> Iterable[str]:
    try:
        return io.StringIO(block.decode("utf-8"), newline=None)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): give a trial list") from error


def _shown(line: str) -> str:
    """The line as it is shown in an error, without what makes it long."""
    line = line.rstrip()
    return repr(line) if len(line) <= 200 else f"{line[:200]!r}..."
