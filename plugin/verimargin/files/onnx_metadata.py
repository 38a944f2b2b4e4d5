"""The fingerprint of an encoder's weights in its .onnx file, so that the file and its model.pt count as one encoder.

It is an entry of the model's metadata_props, the field 14 of ModelProto. Fields of a protobuf message may follow each
other in any order, so that the entry is appended, and found without reading the graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from .reading import opened

KEY = "verimargin.encoder"
METADATA_PROPS = 14
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def record_encoder(file: BinaryIO, fingerprint: str) -> None:
    """Append the fingerprint to an open .onnx file that has none yet."""
    entry = _field(1, KEY.encode()) + _field(2, fingerprint.encode())
    file.seek(0, os.SEEK_END)
    file.write(_field(METADATA_PROPS, entry))


def recorded_encoder(path: str | Path) -> str | None:
    """The fingerprint in an .onnx file; None if it has none, or is no such file."""
    with opened(path) as file:
        try:
            for number, data in _fields(file, os.path.getsize(path)):
                if number == METADATA_PROPS and data.startswith(_field(1, KEY.encode())):
                    return data[len(_field(1, KEY.encode())) + 2 :].decode("ascii")
        except (EOFError, UnicodeDecodeError):
            pass
    return None


def _fields(file: IO[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """The number of each field of the message in a file and, for metadata, its bytes; other fields are skipped."""
    while file.tell() < size:
        number, kind = divmod(_varint(file), 8)
        if kind == VARINT:
            _varint(file)
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(kind) or (_varint(file) if kind == BYTES else size)
        if file.tell() + length > size:
            raise EOFError
        if number == METADATA_PROPS:
            yield number, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise EOFError


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes; both numbers are below 128, as are those of our entry."""
    return bytes([8 * number + BYTES, len(data)]) + data
