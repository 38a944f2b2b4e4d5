"""`.bin` verification sets (lfw.bin, cfp_fp.bin, agedb_30.bin): pickles of encoded images and pair labels."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from typing import Any

from verimargin.files.pickles import check_pickle
from verimargin.files.reading import opened, reason
from verimargin.files.whole import whole


class _DType:
    """In the place of `numpy.dtype`: what an array holds."""

    def __init__(self, kind: str | bytes, *_: Any):
        self.kind = kind.decode("ascii") if isinstance(kind, bytes) else kind
        if self.kind not in ("u1", "b1"):
            raise pickle.UnpicklingError(f"it holds an array of {self.kind!r}, and not of bytes or of bools")

    def __setstate__(self, state: Any) -> None:
        """The order of bytes, and the fields of types that are refused."""


class _Array:
    """In the place of `numpy.ndarray`: an array of bytes or of bools, (N,)."""

    content: bytes | list[bool] = b""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, _, content = state
        self.content = _numbers(dtype, shape, content)


def _numbers(dtype: _DType, shape: tuple, content: bytes | bytearray) -> bytes | list[bool]:
    if shape != (len(content),):
        raise pickle.UnpicklingError(f"an array of {len(content)} bytes has the shape {shape}")
    return bytes(content) if dtype.kind == "u1" else [byte != 0 for byte in content]


def _new_array(*_: Any) -> _Array:
    return _Array()


def _array_of(content: bytes | bytearray, dtype: _DType, shape: tuple, *_: Any) -> _Array:
    array = _Array()
    array.content = _numbers(dtype, shape, content)
    return array


def _number(dtype: _DType, content: bytes) -> int | bool:
    return _numbers(dtype, (1,), content)[0]


def _encoded(text: str, encoding: str) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text in {encoding!r}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write bytes of no length."""
    return b""


# What the pickles of these sets name besides lists, tuples, bytes and bools, and what is called in the place of it.
# NumPy's own functions are not safe: a dtype with an impossible state ends the process.
STAND_INS = {
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _number for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of for core in ("core", "_core")},
}


def read_bin(path: str | os.PathLike) -> tuple[list[bytes], list[bool]]:
    """The encoded images, two per pair, and whether each pair shows one person.

    Reads files that Python 2 or 3 wrote, with images as bytes or as arrays of bytes.

    Raises:
        ValueError: the file is damaged, or is not such a set.
    """
    path = os.fspath(path)
    with opened(path) as file:
        content = file.read()
    try:
        check_pickle(content)
        images, same = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        images = [_image(image) for image in images]
        same = [_label(label) for label in (same.content if isinstance(same, _Array) else same)]
    except Exception as error:  # whatever a damaged pickle calls a stand-in with
        raise ValueError(f"{path} is damaged or not a verification set: {reason(error)}") from error
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


def _image(image: Any) -> bytes:
    content = image.content if isinstance(image, _Array) else image
    if not isinstance(content, bytes):
        raise ValueError(f"an image is a {type(image).__name__.lstrip('_').lower()}, not bytes")
    return content


def _label(label: Any) -> bool:
    if label not in (0, 1):
        raise ValueError(f"a label is {label!r}, neither true nor false")
    return bool(label)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no verification set needs")
        return STAND_INS[module, name]
