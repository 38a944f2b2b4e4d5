"""Reads and writes RecordIO sets (train.rec with train.idx) in mxnet's format, without mxnet.

A record on disk is ``magic, kind << 29 | length, payload, zeros to a multiple of 4``, in little-endian
32-bit words. A payload that contains the magic number at a multiple of 4 is split there: its parts have the kinds
1, 2, ..., 2, 3, and the magic number between them is left out; kind 0 is a whole record. The index holds one line
``key<tab>position`` per record. The payload of a face set is an `IRHeader` and an encoded image.
Format: dmlc-core's recordio and mxnet's python/mxnet/recordio.py.
"""

from __future__ import annotations

import mmap
import numbers
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from verimargin.files.reading import check_regular
from verimargin.files.whole import whole

MAGIC = struct.pack("<I", 0xCED7230A)
LARGEST = 2**29 - 1  # the largest number of bytes in a part
HEADER = struct.Struct("<IfQQ")
BLOCK = 2**18  # records whose headers are read together


class RecordError(ValueError):
    """A RecordIO set is damaged; the message names the file and the key of the record."""


class IRHeader(NamedTuple):
    """The header of a payload. flag is 0 and label a number, or flag is the number of labels and label an array."""

    flag: int
    label: float | np.ndarray
    id: int
    id2: int


class Record(bytes):
    """A payload that knows where it came from, so that an error can name it if it cannot be decoded."""

    origin = "a record"

    @classmethod
    def from_bytes(cls, payload: bytes, origin: str) -> Record:
        record = cls(payload)
        record.origin = origin
        return record

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> Record:
        check_regular(path)
        return cls.from_bytes(Path(path).read_bytes(), os.fspath(path))


class RecordReader:
    """A set that is open for reading, safe to use in threads and in forked or spawned worker processes.

    Args:
        idx_path, rec_path: the two files of the set.

    Attributes:
        keys: the keys of the index in its order, int64. (Arrays and not a dict, so that forked workers share them.)

    Raises:
        RecordError: the index is damaged; when a record is read, it is damaged or the index does not have its key.
    """

    def __init__(self, idx_path: str | os.PathLike, rec_path: str | os.PathLike):
        self.idx_path, self.rec_path = os.fspath(idx_path), os.fspath(rec_path)
        self.keys, self._positions = _read_index(self.idx_path)
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        self._open()

    def _open(self) -> None:
        check_regular(self.rec_path)
        with open(self.rec_path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise RecordError(f"{self.rec_path} is empty: it was not written completely")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read_idx(self, key: int) -> Record:
        """The payload of the record with this key."""
        place = self._place(key)
        if place is None:
            raise RecordError(f"{self.idx_path} has no record {key}: the index is not whole, or belongs to another set")
        position = int(self._positions[place])
        origin = f"record {key} of {self.rec_path}"
        try:
            return Record.from_bytes(_payload(self._bytes, position), origin)
        except RecordError as error:
            raise RecordError(f"{origin}, at byte {position}: {error}") from None

    def _place(self, key: int) -> int | None:
        i = np.searchsorted(self._sorted, key)
        return int(self._order[i]) if i < len(self._sorted) and self._sorted[i] == key else None

    def labels(self, keys: np.ndarray, progress: bool = False) -> np.ndarray:
        """The label of each record, or the first of several, as int64; images are not read."""
        from tqdm import tqdm

        labels = np.empty(len(keys))
        with tqdm(total=len(keys), desc="labels", unit="image", disable=None if progress else True) as bar:
            for start in range(0, len(keys), BLOCK):
                part = keys[start : start + BLOCK]
                labels[start : start + BLOCK] = self._labels(part)
                bar.update(len(part))
        bad = (~np.isfinite(labels) | (labels != np.floor(labels))).nonzero()[0]
        if len(bad):
            raise RecordError(
                f"record {keys[bad[0]]} of {self.rec_path} has the label {labels[bad[0]]:g}, which is no class"
            )
        return labels.astype(np.int64)

    def _labels(self, keys: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        head = self._heads(self._positions[self._order[place]])
        word, flag = (head[:, i : i + 4].copy().view("<u4").ravel() for i in (4, 8))
        label, first = (head[:, i : i + 4].copy().view("<f4").ravel() for i in (12, 32))
        plain = (self._sorted[place] == keys) & (head[:, :4] == np.frombuffer(MAGIC, np.uint8)).all(1)
        plain &= (word >> 29 == 0) & ((word & LARGEST) >= HEADER.size + 4 * (flag > 0))
        labels = np.where(flag > 0, first, label)
        for i in (~plain).nonzero()[0]:  # records in several parts, or damaged ones
            labels[i] = np.ravel(unpack(self.read_idx(int(keys[i])))[0].label)[0]
        return labels

    def _heads(self, positions: np.ndarray) -> np.ndarray:
        """The bytes (N, 36) at the positions: magic, kind and length, `IRHeader` and the first of several labels."""
        data = np.frombuffer(self._bytes, np.uint8)
        return data[(positions[:, None] + np.arange(36)).clip(0, len(data) - 1)]

    def check_keys(self, keys: np.ndarray) -> None:
        """Refuse an index that lost the line of one of these keys."""
        missing = keys[~np.isin(keys, self._sorted)]
        if len(missing):
            raise RecordError(
                f"{self.idx_path} has no record {missing[0]}, nor {len(missing) - 1} others that record 0 tells of: "
                "the index is not whole, or belongs to another set"
            )

    def __contains__(self, key: int) -> bool:
        return self._place(key) is not None

    def close(self) -> None:
        self._bytes.close()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_bytes"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()


class RecordWriter:
    """Writes a set. Both files appear under their names when it is closed; after an error, neither does."""

    def __init__(self, idx_path: str | os.PathLike, rec_path: str | os.PathLike):
        with ExitStack() as files:  # the index takes its name last
            self._idx, self._rec = (
                files.enter_context(open(files.enter_context(whole(path)), "wb")) for path in (idx_path, rec_path)
            )
            self._files = files.pop_all()

    def write_idx(self, key: int, payload: bytes) -> None:
        self._idx.write(f"{key}\t{self._rec.tell()}\n".encode())
        for frame in _frames(payload):
            self._rec.write(frame)

    def close(self) -> None:
        with self._files:  # on a full disk, neither file takes its name
            self._rec.flush()
            self._idx.flush()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.close()
        else:
            self._files.__exit__(*error)


def pack(header: IRHeader | tuple, image: bytes) -> bytes:
    """A payload. A single label is part of the header; several labels follow it, and `flag` is their number."""
    flag, label, *ids = header
    if isinstance(label, numbers.Number):
        return HEADER.pack(flag, label, *ids) + image
    labels = np.asarray(label, dtype="<f4")
    return HEADER.pack(labels.size, 0.0, *ids) + labels.tobytes() + image


def unpack(payload: bytes) -> tuple[IRHeader, Record]:
    """The header and the image of a payload."""
    origin = getattr(payload, "origin", Record.origin)
    if len(payload) < HEADER.size:
        raise RecordError(f"{origin} has {len(payload)} bytes, but a header has {HEADER.size}: it is damaged")
    header, image = IRHeader(*HEADER.unpack_from(payload)), payload[HEADER.size :]
    if header.flag > 0:
        if len(image) < 4 * header.flag:
            raise RecordError(f"{origin} should have {header.flag} labels in {len(image)} bytes: it is damaged")
        header = header._replace(label=np.frombuffer(image, "<f4", header.flag))
        image = image[4 * header.flag :]
    return header, Record.from_bytes(image, origin)


def class_count(records: RecordReader) -> int:
    """The number of classes in a face set according to its record 0; 0 for sets without such a record."""
    if 0 not in records:
        return 0
    header, _ = unpack(records.read_idx(0))
    if header.flag != 2:
        return 0
    first, end = key_range(header, records.rec_path)
    return end - first


def image_keys(records: RecordReader) -> np.ndarray:
    """The keys of a face set's images, in arcface_torch's order.

    If record 0 has several labels, the first is the key after the last image: the class ranges begin there.
    """
    header, _ = unpack(records.read_idx(0))
    if not header.flag:
        return records.keys
    keys = np.arange(1, min(key_range(header, records.rec_path)[0], len(records.keys) + 2))
    records.check_keys(keys)
    return keys


def key_range(header: IRHeader, origin: str) -> tuple[int, int]:
    """The first key and the one after the last in the label of record 0, or of a class's record."""
    numbers = np.ravel(header.label)[:2]
    if len(numbers) < 2 or not np.isfinite(numbers).all() or not 0 <= numbers[0] <= numbers[1]:
        raise RecordError(f"{origin} has a record whose range of keys is {numbers.tolist()}: it is damaged")
    return int(numbers[0]), int(numbers[1])


def _read_index(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The keys and positions in an index."""
    check_regular(path)
    with open(path, encoding="ascii", errors="replace") as file, warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # older NumPy only warns of text that is not a number
        text = file.read()
        try:
            table = np.fromstring(text, dtype=np.int64, sep=" ").reshape(-1, 2)
        except (ValueError, DeprecationWarning):
            table = np.empty((0, 2), np.int64)
    if len(table) == 0 or len(table) != text.rstrip().count("\n") + 1:
        raise RecordError(f"{path} is not an index of lines `key<tab>position`")
    if (table < 0).any():
        raise RecordError(f"{path} has a negative key or position: it is damaged")
    return table[:, 0].copy(), table[:, 1].copy()


def _payload(data: mmap.mmap, position: int) -> bytes:
    parts: list[bytes] = []
    while True:
        head = data[position : position + 8]
        if len(head) < 8:
            raise RecordError(f"the file ends at byte {len(data)}: it is truncated, or does not belong to the index")
        if head[:4] != MAGIC:
            raise RecordError(f"the record begins with {head[:4].hex()} instead of {MAGIC.hex()}: it is corrupt")
        word = int.from_bytes(head[4:], "little")
        kind, length = word >> 29, word & LARGEST
        if kind not in ((2, 3) if parts else (0, 1)):
            raise RecordError(f"there is a part of kind {kind} where none can be: it is corrupt")
        part = data[position + 8 : position + 8 + length]
        if len(part) < length:
            raise RecordError(f"it has {len(part)} of its {length} bytes: the file is truncated")
        parts.append(part)
        if kind in (0, 3):
            return MAGIC.join(parts)
        position += 8 + length + -length % 4


def _frames(payload: bytes) -> Iterator[bytes]:
    """The parts of a payload as they are written to disk, split at every aligned magic number."""
    if len(payload) > LARGEST:
        raise ValueError(f"a record of {len(payload)} bytes is too long: a RecordIO record holds at most {LARGEST}")
    starts, ends, at = [0], [], payload.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            ends.append(at)
            starts.append(at + 4)
        at = payload.find(MAGIC, at + 1)
    for i, (start, end) in enumerate(zip(starts, [*ends, len(payload)])):
        kind = 0 if not ends else 1 if i == 0 else 3 if i == len(ends) else 2
        yield MAGIC + (kind << 29 | end - start).to_bytes(4, "little") + payload[start:end] + bytes(-(end - start) % 4)
