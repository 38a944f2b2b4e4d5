"""The part of mxnet that arcface_torch's scripts use, made with OpenCV and our RecordIO (see compat.py)."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from .recordio import IRHeader, Record, RecordError, RecordReader, RecordWriter, pack, unpack


class NDArray(np.ndarray):
    """An array with mxnet's `asnumpy`."""

    def asnumpy(self) -> np.ndarray:
        return self.view(np.ndarray)


def _array(data: np.ndarray) -> NDArray:
    return np.ascontiguousarray(data).view(NDArray)  # like mxnet's arrays; torch accepts no negative strides


def open_indexed(idx_path: str, uri: str, flag: str) -> RecordReader | RecordWriter:
    """`MXIndexedRecordIO`, for flag "r" or "w"."""
    if flag not in ("r", "w"):
        raise ValueError(f"flag is {flag!r}: give 'r' or 'w'")
    return RecordReader(idx_path, uri) if flag == "r" else RecordWriter(idx_path, uri)


def imdecode(buf: bytes | np.ndarray, flag: int = 1, to_rgb: bool = True) -> NDArray:
    """Decode an image, given as bytes or an array of bytes, to (height, width, channels) uint8; flag 0 means grey."""
    import cv2

    data = np.frombuffer(buf, np.uint8) if isinstance(buf, bytes) else np.asarray(buf, np.uint8).ravel()
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR if flag else cv2.IMREAD_GRAYSCALE) if data.size else None
    except cv2.error:  # such as more pixels than OpenCV takes
        image = None
    if image is None:
        origin = getattr(buf, "origin", Record.origin)
        raise RecordError(f"{origin} holds {data.size} bytes that are not an image: it is damaged")
    image = image[..., None] if not flag else image[..., ::-1] if to_rgb else image
    return _array(image)


def resize_short(src: np.ndarray, size: int, interp: int = 2) -> NDArray:
    """The image resized so that its shorter side is `size`; interp has OpenCV's numbers, 2 is cubic."""
    import cv2

    height, width = src.shape[:2]
    new = (size * width // height, size) if height < width else (size, size * height // width)
    return _array(cv2.resize(np.asarray(src), new, interpolation=interp))


def transpose(data: np.ndarray, axes: Sequence[int]) -> NDArray:
    return _array(np.transpose(data, axes))


def flip(data: np.ndarray, axis: int) -> NDArray:
    return _array(np.flip(data, axis))


def modules() -> dict[str, types.ModuleType]:
    """The modules for sys.modules, by name. Using a part of mxnet that is not among them raises AttributeError."""

    def module(name: str, **content: Any) -> types.ModuleType:
        made = types.ModuleType(name, "A part of mxnet, replaced by verimargin_insightface")
        made.__dict__.update(content)
        return made

    recordio = module("mxnet.recordio", MXIndexedRecordIO=open_indexed, IRHeader=IRHeader, pack=pack, unpack=unpack)
    image = module("mxnet.image", imdecode=imdecode, resize_short=resize_short)
    ndarray = module("mxnet.ndarray", NDArray=NDArray, transpose=transpose, flip=flip)
    data = module("mxnet.gluon.data", Dataset=type("Dataset", (), {}))
    gluon = module("mxnet.gluon", data=data)
    top = module("mxnet", recordio=recordio, image=image, ndarray=ndarray, nd=ndarray, gluon=gluon)
    return {made.__name__: made for made in (top, recordio, image, ndarray, gluon, data)}
