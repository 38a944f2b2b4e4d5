"""An image folder packed into a RecordIO set, as MS1M and Glint360K come."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from verimargin.commands.progress import progress

from ..recordio import IRHeader, Record, RecordWriter, pack

SIDE = 112  # pixels; the dataset class that reads the set does not resize
LARGEST_INDEX = 2**24  # labels are float32: larger integers would be rounded


def pack_folder(folder: Path, out: Path) -> None:
    """Pack an image FOLDER, one folder of aligned 112 x 112 images per class, into OUT/train.rec and OUT/train.idx.

    Classes and images keep the order, and so the labels, that arcface_torch gives them from the folder;
    the images' own bytes are kept. Nothing stands under the two names before all is written.
    """
    from torchvision.datasets import ImageFolder

    for path in (out / "train.rec", out / "train.idx"):
        if path.exists():
            raise FileExistsError(f"{path} exists already: move it, or give another folder")
    samples = ImageFolder(str(folder)).samples
    labels = [label for _, label in samples]
    num_classes = labels[-1] + 1
    first, frame = _frame(labels)
    out.mkdir(parents=True, exist_ok=True)
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
    """The first image's key, and record 0 followed by the class-range entries.

    Record 0 holds [first, one past the last] key of the entries, an entry those of its class's images. A set
    whose keys float32 labels cannot hold does without: its images start at 0, as upstream reads it too.
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

    data = Record.from_bytes(Path(path).read_bytes(), path)
    height, width = imdecode(data).shape[:2]
    if (height, width) != (SIDE, SIDE):
        raise ValueError(f"{path} is {width} x {height}: align the faces to {SIDE} x {SIDE} first")
    return data
