"""Embeds many samples, so that a later run continues where a killed one stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..files.locks import lock_file_now
from ..files.whole import check_room, naming
from .progress import progress

T = TypeVar("T")


def embed_resumably(
    samples: Sequence[T], embed: Callable[[Sequence[T]], np.ndarray], partial: Path, batch_size: int, unit: str
) -> np.ndarray:
    """``np.concatenate([embed(batch) for batch in batches])``, (N, d) float32.

    Args:
        samples: one at least.
        embed: of a batch of samples, (B, d).
        partial: the file to which each batch is appended when it is made. Its name has to tell all that the embeddings
            depend on. It is removed at the end.
        batch_size: samples in a batch; what is resumed begins with a new batch.
        unit: what a batch is, for the progress bar.

    Raises:
        ValueError: another process is making them.
    """
    parts: list[np.ndarray] = []
    done = 0
    with naming(partial), partial.open("ab") as file:
        try:
            lock_file_now(file)
        except BlockingIOError:
            raise ValueError(
                f"another process is making these embeddings ({partial} is in use): wait for it, or give another OUT"
            ) from None
        if partial.stat().st_size:
            parts = [_whole_batches(partial, embed(samples[:1]).shape[1], len(samples), batch_size)]
            done = len(parts[0])
            os.truncate(partial, parts[0].nbytes)
        starts = range(done, len(samples), batch_size)
        bar = {"initial": -(-done // batch_size), "total": -(-len(samples) // batch_size)}
        for start in progress(starts, "embedding", unit, **bar):
            made = np.ascontiguousarray(embed(samples[start : start + batch_size]), dtype=np.float32)
            if not start:
                check_room(partial, 2 * 4 * made.shape[1] * len(samples))  # also for the file that is made of this one
            file.write(made.tobytes())
            parts.append(made)
    partial.unlink()
    return np.concatenate(parts)


def _whole_batches(partial: Path, size: int, number: int, batch_size: int) -> np.ndarray:
    """The rows of the file, without those of a batch that was cut short; all of them if all have been made."""
    kept = np.fromfile(partial, np.float32)
    rows = len(kept) // size
    rows = number if rows >= number else rows // batch_size * batch_size
    return kept[: rows * size].reshape(rows, size)
