"""Locks of open files. The kernel lets go of one when its process ends, however it ends."""

from __future__ import annotations

from typing import IO

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ImportError(
        "the commands, files and adapters of verimargin need Linux, as this system has no fcntl: on Windows, install "
        "it in WSL; `import verimargin` alone, with the losses, the head and the scorers, works here too"
    ) from error


def lock_file(file: int | IO) -> None:
    """Lock the file, as soon as no other process has locked it.

    Raises:
        OSError: there are no locks here, as on some network drives.
    """
    fcntl.flock(file, fcntl.LOCK_EX)


def lock_file_now(file: int | IO) -> None:
    """Lock the file.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: there are no locks here.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
