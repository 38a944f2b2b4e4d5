"""The images of a training set: a RecordIO set, or a folder with one folder of images for each class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .image_folder import check_class_folders
from .recordio import Record, RecordError, RecordReader, key_range, unpack

SIDE = 112  # pixels


@dataclass(frozen=True)
class Images:
    names: np.ndarray  # the names of the classes
    labels: np.ndarray  # the class of each image, as a position among the names
    ids: list[str]  # one per image
    read: Callable[[int], Record]  # returns the encoded image at a position


def open_images(data: Path) -> Images:
    """Open a RecordIO set or an image folder."""
    rec, idx = data / "train.rec", data / "train.idx"
    if rec.exists() != idx.exists():
        raise ValueError(f"{data} has only one of train.rec and train.idx: give a folder with both")
    if rec.exists():
        records = RecordReader(idx, rec)
        keys, numbers = _labels(records)
        names, labels = np.unique(numbers, return_inverse=True)
        ids = [f"{number}/{key}" for number, key in zip(numbers, keys)]
        return Images(names.astype(str), labels, ids, lambda n: unpack(records.read_idx(int(keys[n])))[1])
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder: give one with train.rec and train.idx, or with one folder per class")
    from torchvision.datasets import ImageFolder

    check_class_folders(data)
    try:
        folder = ImageFolder(str(data))
    except FileNotFoundError as error:
        raise ValueError(f"{data} holds neither train.rec nor a folder of images for each class: {error}") from error
    paths = [Path(path) for path, _ in folder.samples]
    return Images(
        np.array(folder.classes),
        np.array(folder.targets),
        [path.relative_to(data).as_posix() for path in paths],
        lambda n: Record.from_file(paths[n]),
    )


def _labels(records: RecordReader) -> tuple[np.ndarray, np.ndarray]:
    """The key and the class number of each image, taken from the class ranges if the set has them."""
    head = unpack(records.read_idx(0))[0] if 0 in records else None
    if head is None or not head.flag:
        return records.keys, records.labels(records.keys)
    number = len(records.keys)
    first, end = key_range(head, records.rec_path)
    records.check_keys(np.arange(first, min(end, first + number + 1)))
    heads = (unpack(records.read_idx(key))[0] for key in range(first, end))
    ranges = np.array([key_range(head, records.rec_path) for head in heads], np.int64).reshape(-1, 2)
    counts = ranges[:, 1] - ranges[:, 0]
    if not 0 < counts.sum() <= number:
        raise RecordError(
            f"{records.rec_path} has {number} records, and classes of {counts.sum()} images: it is damaged"
        )
    keys = np.concatenate([np.arange(*span) for span in ranges])
    records.check_keys(keys)
    return keys, np.repeat(records.labels(ranges[counts > 0, 0]), counts[counts > 0])


def decode(image: Record) -> np.ndarray:
    """The image as RGB pixels (112, 112, 3); any other size is refused."""
    from .mxnet_names import imdecode

    pixels = imdecode(image)
    if pixels.shape[:2] != (SIDE, SIDE):
        raise ValueError(f"{image.origin} is {pixels.shape[1]} x {pixels.shape[0]}: align the faces to {SIDE} x {SIDE}")
    return pixels
