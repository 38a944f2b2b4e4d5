"""`verimargin` itself. Every command is an entry point, so commands that need a toolkit can live in its adapter."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import entry_points
from typing import Annotated

from .. import __version__

try:
    import typer
except ImportError:
    sys.exit("verimargin: the command line needs the cli extra: pip install 'verimargin[cli]'")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit, so that what is half written is removed
    try:
        make_app()()
    except ModuleNotFoundError as error:
        sys.exit(
            f"verimargin: {error}: pip install 'verimargin[cli,speechbrain,insightface]' has all that commands need"
        )
    except (ValueError, OSError) as error:  # the input is wrong, and the message says what to do
        sys.exit(f"verimargin: {error}")


def make_app() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Verification losses and scores for SpeechBrain and InsightFace's arcface_torch.",
    )
    app.callback()(_options)
    for entry in sorted(entry_points(group="verimargin.commands")):
        command = entry.load()
        if isinstance(command, typer.Typer):  # several commands under one name
            app.add_typer(command, name=entry.name)
        else:
            app.command(name=entry.name)(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"verimargin {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
