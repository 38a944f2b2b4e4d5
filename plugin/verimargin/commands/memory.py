"""`--max-memory` of the scoring commands: what a list needs is estimated before anything is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..files.trials import count_lines, holds_templates
from ..scoring.methods import BLOCK

UNITS = {"": 2**30, "G": 2**30, "GiB": 2**30, "M": 2**20, "MiB": 2**20}
# Bytes for each trial, measured with 10 million: reading a list of templates; then both positions, the label and both
# identities, the score of a method, and what a DET curve, the blocks or a list of names take, or the paired intervals.
TEMPLATES, LISTED, SCORED, CURVE, INTERVALS = 84, 17, 4, 44, 104
SCORED_COPIES, OTHER_COPIES = 4, 2  # of the embeddings that are scored, and of the cohort, anchors or distractors
FIXED = 2**27  # libraries that are loaded later, and blocks
SMALLEST_BLOCK = 2**24


def block_bytes(
    limit: str | None, trials: Path, embeddings: Path, others: Sequence[Path | None], methods: int, intervals: bool
) -> int:
    """The memory that scoring may take for its blocks, so that the whole command stays below the limit.

    Args:
        limit: the memory of the process, such as "2", "2GiB" or "1500MiB"; a number alone means GiB.
        trials, embeddings, others: the files, of which only the list is opened, to count its lines.
        methods: the number of scores for each trial.

    Raises:
        ValueError: the limit is not a size, or smaller than what the files need.
    """
    if limit is None:
        return BLOCK
    size, count = size_of(limit), count_lines(trials) if trials.is_file() else 0
    copies = SCORED_COPIES * _bytes(embeddings) + OTHER_COPIES * sum(_bytes(path) for path in others if path)
    fixed = _resident() + FIXED + copies
    kept = fixed + count * (LISTED + SCORED * methods)
    with_curve = kept + count * CURVE
    if count and holds_templates(trials):
        with_curve = max(with_curve, fixed + count * TEMPLATES)
    needed = max(kept + count * INTERVALS, with_curve) if intervals else with_curve
    if needed > size:
        fewer = f", or {_shown(with_curve)} with --no-intervals" if _shown(with_curve) != _shown(needed) else ""
        raise ValueError(
            f"--max-memory is {limit}, but {count:,} trials and {methods} methods need about {_shown(needed)}: give "
            f"{_shown(needed)}{fewer}, or score parts of the list"
        )
    return max(SMALLEST_BLOCK, min(BLOCK, size - kept))


def size_of(text: str) -> int:
    """The bytes of a size such as 2, 2GiB or 1500MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w*)", text.strip())
    if not match or match[2] not in UNITS:
        raise ValueError(f"--max-memory is {text!r}: give a size in GiB, such as 4, or with a unit, such as 1500MiB")
    return int(float(match[1]) * UNITS[match[2]])


def _shown(size: int) -> str:
    return f"{math.ceil(size / 2**30 * 10) / 10:.1f}GiB"


def _resident() -> int:
    """The memory of this process as it is now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
