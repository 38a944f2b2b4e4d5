"""`verimargin env`: what a bug report should say about the machine."""

from __future__ import annotations

from .environment import describe


def env() -> None:
    """Show the versions of the packages that matter, the device and the toolkits' checkouts, for a bug report."""
    for name, value in describe().items():
        print(f"{name:<24}{value}")
