"""`verimargin demo`: the demos of the adapters, which are entry points, under one name."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

DEFAULT = "speech"


class _WithDefault(TyperGroup):
    """`verimargin demo`, also with options, is `verimargin demo speech`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (not args[0].startswith("-") or args[0] == "--help")
        return super().parse_args(ctx, args if named else [DEFAULT, *args])


def make_demo(entries: Iterable[EntryPoint]) -> typer.Typer:
    """The command with the demos of these entry points."""
    found = typer.Typer(
        cls=_WithDefault,
        help=f"Make data, train losses on it, compare them in a report. Without a name: {DEFAULT}.",
    )
    for entry in sorted(entries, key=lambda entry: entry.name != DEFAULT):
        found.command(name=entry.name)(entry.load())
    return found


demo = make_demo(entry_points(group="verimargin.demos"))
