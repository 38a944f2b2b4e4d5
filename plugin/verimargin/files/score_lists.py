"""Lists of scores, `<enrol> <test> <label> <score>`, as SpeechBrain's scripts write them, made many lines at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .trials import Trials
from .whole import whole

BLOCK = 2**22  # bytes of the lines that are made at once
FILLER = b"\xff"  # stands for no character until the lines are written; it occurs in no UTF-8
EXACT = 2**31  # a float32 below it times 10^6 is a float64 without rounding


def write_score_list(path: str | Path, ids: Sequence[str], trials: Trials, scores: np.ndarray) -> None:
    """Write ``f"{ids[enrol]} {ids[test]} {same:d} {score:f}"`` as a line for each trial."""
    names, (enrol, test, same) = rows([name.encode() for name in ids]), trials
    step = max(1, BLOCK // (2 * names.shape[1] + 20))
    with whole(path) as partial, open(partial, "wb") as file:
        for first in range(0, len(scores), step):
            part = slice(first, first + step)
            label = same[part, None] + np.uint8(ord("0"))
            space, end = (np.full_like(label, ord(character)) for character in " \n")
            columns = [names[enrol[part]], space, names[test[part]], space, label, space, decimals(scores[part]), end]
            file.write(np.concatenate(columns, axis=1).tobytes().translate(None, FILLER))


def decimals(values: np.ndarray) -> np.ndarray:
    """The characters (n, width) of ``f"{value:f}"`` for each value, with fillers among them."""
    if values.dtype != np.float32 or not (np.abs(values) < EXACT).all():
        return rows([f"{value:f}".encode() for value in values.tolist()])
    left = np.rint(np.abs(values.astype(np.float64)) * 1e6).astype(np.int64)  # rounds a half to even, as Python does
    width = max(8, len(str(left.max(initial=0))) + 1) + 1
    text = np.full((len(values), width), FILLER[0], dtype=np.uint8)
    text[np.signbit(values), 0] = ord("-")
    text[:, width - 7] = ord(".")
    for place in [*range(width - 1, width - 7, -1), *range(width - 8, 0, -1)]:
        rest = left // 10
        digit = (left - 10 * rest + ord("0")).astype(np.uint8)
        text[:, place] = digit if place >= width - 8 else np.where(left > 0, digit, FILLER[0])
        left = rest
    return text


def rows(words: Sequence[bytes]) -> np.ndarray:
    """The words (n, longest), with fillers behind the shorter ones."""
    longest = max(map(len, words), default=0)
    joined = b"".join(word.ljust(longest, FILLER) for word in words)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(words), longest)
