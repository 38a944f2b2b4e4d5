"""What a command does about the new file that it will write, before it computes anything."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..files.whole import writing


def new_output(suffix: str) -> Callable[[Callable], Callable]:
    """A decorator of commands with an argument `out`: a new file with this suffix, which nobody else writes meanwhile.

    It raises what `verimargin.files.whole.writing` raises.
    """

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def alone_with_out(*arguments: Any, **options: Any) -> Any:
            out = inspect.signature(command).bind(*arguments, **options).arguments["out"]
            with writing(out, suffix):
                return command(*arguments, **options)

        return alone_with_out

    return decorate
