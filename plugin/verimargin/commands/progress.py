"""How the commands show that they are alive: one bar for each thing that takes long, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[..., Iterable]  # of steps and `title`


def progress(steps: Iterable, title: str, unit: str = "step", **options: Any) -> Iterable:
    """The steps, shown as a bar that goes when it is done."""
    from tqdm import tqdm

    return tqdm(steps, title, unit=unit, leave=False, disable=None, **options)
