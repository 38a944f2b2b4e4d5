"""Progress bars of the commands: one for each part that takes long, and only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[..., Iterable]  # called as progress(steps, title=...)


def progress(steps: Iterable, title: str, unit: str = "step", **options: Any) -> Iterable:
    """The steps, with a progress bar that disappears when they are done."""
    from tqdm import tqdm

    return tqdm(steps, title, unit=unit, leave=False, disable=None, **options)
