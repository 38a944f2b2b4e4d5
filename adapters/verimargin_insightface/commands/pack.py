"""`verimargin pack`: packs an image folder into a RecordIO set, the format of MS1M and Glint360K."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from verimargin.commands.progress import progress
from verimargin.files.whole import alone, check_room

from ..image_folder import check_class_folders
from ..recordio import IRHeader, Record, RecordWriter, pack

SIDE = 112  # pixels; the dataset class that reads the set does not resize
LARGEST_INDEX = 2**24  # labels are float32: larger integers would be rounded


def pack_folder(folder: Path, out: Path) -> None:
    """Pack an image FOLDER, one folder of aligned 112 x 112 images per class, into OUT/train.rec and OUT/train.idx.

    Classes and images keep the order, and therefore the labels, that arcface_torch gives them when it reads the
    folder. The images are copied byte by byte. The two files appear when everything has been written.
    """
    for path in (out / "train.rec", out / "train.idx"):
        if path.exists():
            raise FileExistsError(f"{path} exists already: move it, or give another folder")
    check_class_folders(folder)
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with alone(out / "train.rec"):
            _pack(folder, out)
    except BaseException:
        if is_new:
            with suppress(OSError):
                out.rmdir()
        raise


def _pack(folder: Path, out: Path) -> None:
    from torchvision.datasets import ImageFolder

    samples = ImageFolder(str(folder)).samples
    labels = [label for _, label in samples]
    num_classes = labels[-1] + 1
    first, frame = _frame(labels)
    check_room(out / "train.rec", sum(Path(path).stat().st_size for path, _ in samples))
    with RecordWriter(out / "train.idx", out / "train.rec") as writer:
        if first == 1:
            writer.write_idx(0, frame[0])
        for key, (path, label) in enumerate(progress(samples, "packing", "image"), first):
            writer.write_idx(key, pack(IRHeader(0, float(label), key, 0), _image(path)))
        for key, entry in enumerate(frame[1:], first + len(samples)):
            writer.write_idx(key, entry)
    print(
        f"packed {len(samples)} images of {num_classes} classes: in the config, set config.rec = {str(out)!r}, "
        f"config.num_classes = {num_classes}, config.num_image = {len(samples)}"
    )


def _frame(labels: list[int]) -> tuple[int, list[bytes]]:
    """The key of the first image, and record 0 followed by one class-range entry per class.

    Record 0 holds the first key of these entries and one past the last; an entry holds the same for the images of its
    class. If the keys are too large for float32 labels, there are no such records and the images start at key 0,
    which upstream reads as well.
    """
    count, num_classes = len(labels), labels[-1] + 1
    end = 1 + count + num_classes
    if end > LARGEST_INDEX:
        return 0, []
    starts = [*(1 + np.searchsorted(labels, np.arange(num_classes))).tolist(), 1 + count]
    ranges = [(1 + count, end), *pairwise(starts)]
    keys = [0, *range(1 + count, end)]
    return 1, [pack(IRHeader(2, np.array(pair), key, 0), b"") for key, pair in zip(keys, ranges)]


def _image(path: str) -> bytes:
    from ..mxnet_names import imdecode

    data = Record.from_file(path)
    height, width = imdecode(data).shape[:2]
    if (height, width) != (SIDE, SIDE):
        raise ValueError(f"{path} is {width} x {height}: align the faces to {SIDE} x {SIDE} first")
    return data
