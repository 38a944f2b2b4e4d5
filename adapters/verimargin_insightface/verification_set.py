"""`.bin` verification sets (lfw.bin, cfp_fp.bin, agedb_30.bin): pickles of encoded images and pair labels."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from verimargin.files.whole import whole

# What the pickles of these sets name besides lists, tuples, bytes and bools. None of it could run code.
ALLOWED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


def read_bin(path: str | os.PathLike) -> tuple[list[bytes], list[bool]]:
    """The encoded images, two per pair, and whether each pair shows one person.

    Reads files that Python 2 or 3 wrote, with images as bytes or as arrays of bytes.

    Raises:
        ValueError: the file is damaged, or is not such a set.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            images, same = _Unpickler(file, encoding="bytes").load()
            images = [bytes(image) if isinstance(image, bytes) else _bytes(image) for image in images]
            same = [bool(label) for label in same]
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not a verification set: {error or type(error).__name__}") from error
    _check(path, images, same)
    return images, same


def write_bin(path: str | os.PathLike, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write a set; the file appears under its name when it is complete.

    Raises:
        ValueError: there are not two images per pair.
    """
    path = os.fspath(path)
    _check(path, images, same)
    with whole(path) as partial, open(partial, "wb") as file:
        pickle.dump(([bytes(image) for image in images], [bool(label) for label in same]), file, protocol=4)


def _check(path: str, images: Sequence[bytes], same: Sequence[bool]) -> None:
    if len(images) != 2 * len(same):
        raise ValueError(f"{path} has {len(images)} images for {len(same)} pairs: give two images per pair")


def _bytes(image: Any) -> bytes:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ValueError(f"an image is a {type(image).__name__}, not bytes")
    return image.tobytes()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no verification set needs")
        return super().find_class(module, name)
