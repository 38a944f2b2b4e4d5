"""Files and folders that appear under their name when they are complete, and leave nothing behind otherwise.

What is being written is hidden beside its place and locked by `flock`. The kernel lets go of the lock when the process
ends, however it ends: what a killed process left is not locked, and the next one that writes the same output removes
it. On NFS, Linux asks the server for the lock, but not for that of a folder; where there are no locks, nothing is
refused and nothing of others is removed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .locks import lock_file, lock_file_now

LEAST_ROOM = 2**20  # bytes that have to be free before anything is computed
_HELD: set[str] = set()


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """The path to write the file to: a hidden file next to `path`, with the same ending, that is renamed at the end.

    Where `path` is a link, the file that it leads to is replaced.

    Raises:
        FileNotFoundError: nothing has been written.
        OSError: the file cannot be written; the error names it.
    """
    path = Path(os.path.realpath(path))
    ending = f".partial{path.suffix}"
    _remove_abandoned(path, ending)
    with naming(path):
        partial, lock = _new_partial(path, ending)
        try:
            yield partial
            if not partial.stat().st_size:
                raise FileNotFoundError(f"nothing has been written to {path}")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
            os.close(lock)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The folder to write the files to: a hidden folder next to `path` that is renamed at the end.

    Raises:
        FileExistsError: `path` is a file, a folder that is not empty, or the working directory.
        ValueError: another process is writing it.
        OSError: the folder cannot be written; the error names it.
    """
    named, path = path, Path(os.path.realpath(path))
    _check_new_folder(named, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path), naming(path):
        _check_new_folder(named, path)
        _remove_abandoned(path, ".partial")
        partial = _hidden(path, ".partial")
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        try:
            _wait_for(lock)
            yield partial
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(lock)


@contextmanager
def alone(path: str | os.PathLike) -> Iterator[None]:
    """Keep other processes from writing the same file or folder meanwhile. Its folder has to exist.

    Raises:
        ValueError: another process is writing it.
        OSError: nothing can be written there, or the disk is full.
    """
    place = Path(os.path.realpath(path))
    known = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:8]
    file = place.with_name(f".{place.stem[:40]}.{known}.lock")
    check_room(place)
    lock = _lock_of(file, place)
    if lock is None:
        raise ValueError(f"another process is writing {path}: wait until it has finished, or give another name")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(lock)


def hold(path: str | os.PathLike) -> None:
    """`alone` for as long as this process lives; a second call for the same path changes nothing.

    Raises:
        ValueError: another process holds it.
        OSError: nothing can be written there, or the disk is full.
    """
    place = os.path.realpath(path)
    if place in _HELD:
        return
    held, owner = contextlib.ExitStack(), os.getpid()
    held.enter_context(alone(path))
    _HELD.add(place)
    atexit.register(lambda: held.close() if os.getpid() == owner else None)  # not where a fork of it ends


@contextmanager
def writing(path: str | os.PathLike, suffix: str) -> Iterator[None]:
    """`new_file` and `alone`: what a command that writes one new file does for as long as it computes."""
    new_file(path, suffix)
    with alone(path):
        new_file(path, suffix)  # another process may just have finished it
        yield


def check_room(path: str | os.PathLike, size: int = LEAST_ROOM) -> None:
    """Refuse to write so many bytes to `path` if its disk has fewer left."""
    disk = shutil.disk_usage(Path(os.path.realpath(path)).parent)
    if disk.free < size and disk.total:  # some network drives tell nothing
        raise OSError(errno.ENOSPC, f"{path} needs {size:,} bytes, but its disk has only {disk.free:,} left")


def new_file(path: str | os.PathLike, suffix: str) -> Path:
    """The path, if a new file of that kind can be written there; commands ask this before they compute anything.

    Raises:
        ValueError: the path has another suffix, or its folder does not exist.
        FileExistsError: the file exists.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{path} has to be an {suffix} file: give it that ending")
    if path.exists():
        raise FileExistsError(f"{path} exists already: move it, or give another name")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: make it first")
    return path


def _check_new_folder(named: str | os.PathLike, path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir()) or path == Path.cwd()):
        raise FileExistsError(f"{named} exists already: move it, or give another folder")


def _hidden(path: Path, ending: str) -> Path:
    """A name of its own beside `path`: two writers never share one, whatever machine or thread they are on."""
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{ending}")


def _remove_abandoned(path: Path, ending: str) -> None:
    """Remove what killed processes left of `path`; what a living one writes is locked."""
    name = re.compile(rf"\.{re.escape(path.stem[:40])}\.[0-9a-f]{{8}}{re.escape(ending)}")
    found = path.parent.iterdir() if path.parent.is_dir() else []
    for partial in [entry for entry in found if name.fullmatch(entry.name)]:
        is_folder = partial.is_dir()
        try:
            lock = os.open(partial, os.O_RDONLY if is_folder else os.O_RDWR)
        except OSError:  # gone, or not ours
            continue
        try:
            lock_file_now(lock)
            if is_folder:
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
        except OSError:  # in use, or there are no locks here
            pass
        finally:
            os.close(lock)


def _new_partial(path: Path, ending: str) -> tuple[Path, int]:
    """A new hidden file beside `path`, and the descriptor that locks it."""
    while True:
        partial = _hidden(path, ending)
        lock = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _wait_for(lock)
        if os.fstat(lock).st_nlink:
            return partial, lock
        os.close(lock)  # another process found it before it was locked, and removed it


def _wait_for(lock: int) -> None:
    with contextlib.suppress(OSError):  # where there are no locks
        lock_file(lock)


def _lock_of(file: Path, place: Path) -> int | None:
    """A descriptor that locks the file, which is made; None if another process has locked it."""
    while True:
        with _refusing(place):
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock_file_now(lock)
            is_there = os.fstat(lock).st_ino == os.stat(file).st_ino
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            is_there = False
        except OSError:  # there are no locks here
            is_there = True
        if is_there:
            break
        os.close(lock)  # its owner has removed it in the meantime
    try:
        with _refusing(place):
            os.write(lock, f"process {os.getpid()}\n".encode())  # for which a full disk or quota has no room
    except OSError:
        file.unlink(missing_ok=True)
        os.close(lock)
        raise
    return lock


@contextmanager
def _refusing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: nothing can be written there", str(place.parent)) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system name the file: those of writing do not tell it themselves."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
