"""The files of a folder that are made once, and made again when what they depend on has changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files.reading import read_text
from ..files.whole import alone, whole

RECORD = "evaluate.json"


class Kept:
    """What has been made in a folder, and from what. It is recorded before it is made, and made whole.

    Args:
        folder: of one encoder only.
        encoder: its fingerprint.
    """

    def __init__(self, folder: Path, encoder: str):
        self.folder, self.encoder = folder, encoder
        self._keys = _read(folder, encoder)

    def make(self, name: str, key: Any, what: str, make: Callable[[Path], None]) -> str:
        """Make a file or a folder, unless it was made from the same, and say which.

        Args:
            name: in the folder.
            key: all that it depends on besides the encoder, as JSON takes it.
            what: what it is, for the user.
            make: writes it to a path; it appears there when it is complete.

        Returns:
            a digest of the key, for the key of what depends on this.
        """
        path = self.folder / name
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        changed = name in self._keys and self._keys[name] != digest
        if path.exists() and self._keys.get(name) == digest:
            print(f"{path}: kept, {what}", flush=True)
            return digest
        if self._keys.get(name) != digest:
            self._note(name, None)  # first, so that what a kill leaves of the old one is not taken for the new one
            self._remove(path)
            self._note(name, digest)
        print(f"{path}: {'made again, as its input has changed, ' if changed else ''}{what}", flush=True)
        make(path)
        return digest

    def drop(self, name: str) -> None:
        """Remove what an earlier evaluation made, and this one does not make."""
        if name in self._keys:
            self._note(name, None)
            self._remove(self.folder / name)

    def _remove(self, path: Path) -> None:
        for old in [path, *path.parent.glob(f"{path.stem}.*.partial")]:
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)

    def _note(self, name: str, digest: str | None) -> None:
        self._keys.pop(name, None)
        if digest is not None:
            self._keys[name] = digest
        with whole(self.folder / RECORD) as partial:
            partial.write_text(json.dumps({"encoder": self.encoder, "files": self._keys}, indent=2), encoding="utf-8")


@contextmanager
def kept(folder: Path, encoder: str) -> Iterator[Kept]:
    """The folder, made if it is not there, for this process alone.

    Raises:
        FileExistsError: it holds something else.
        ValueError: it is of another encoder, or another process is making it.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder")
    is_ours = (folder / RECORD).is_file()
    if folder.is_dir() and not is_ours and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no evaluation: give another folder")
    _read(folder, encoder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / RECORD):
        yield Kept(folder, encoder)


def _read(folder: Path, encoder: str) -> dict[str, str]:
    """The keys of what has been made; none yet in a new folder."""
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        held = json.loads(read_text(path))
        known, keys = held["encoder"], dict(held["files"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: give another folder, or remove this one") from error
    if known != encoder:
        raise ValueError(
            f"{folder} holds the evaluation of other weights ({str(known)[:12]}, these are {encoder[:12]}): give "
            "another folder, or remove this one"
        )
    return keys
