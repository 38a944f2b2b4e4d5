"""The data loader of a running train_v2.py, followed from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def follow(loader: Any, ended: Callable[[], None], seen: Callable[[Any], Any] = lambda batch: batch) -> Any:
    """The same loader, which may be upstream's or DALI's, changed to call functions as the script goes through it.

    Args:
        ended: is called when an epoch is over, after its last step.
        seen: is given each batch, and returns what the script gets.
    """
    kind: Any = type(loader)

    class Followed(kind):
        def __next__(self) -> Any:
            try:
                batch = super().__next__()
            except StopIteration:
                ended()
                raise
            return seen(batch)

    loader.__class__ = Followed
    return loader
