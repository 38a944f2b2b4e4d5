"""Reads text, arrays and tensors of files that may be damaged, or made to do harm: nothing in them is run."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

LARGEST_RATIO = 50  # the numbers of embeddings hardly compress: float64 that holds small integers comes to some 10
NPY = b"\x93NUMPY"  # what an .npy begins with
SMALL = 2**26  # bytes that any file may unpack to
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check_regular(path: str | os.PathLike) -> None:
    """Refuse a pipe or a device, which would be read for ever. A file that does not exist passes."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a pipe or a device: give a file; what a program prints has to be saved first")


def opened(path: str | os.PathLike) -> IO[bytes]:
    """The file, open for reading; only this raises the OSError of a file that is not there."""
    check_regular(path)
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: give a file")
    return open(path, "rb")


def reason(error: Exception) -> str:
    """An error of a library in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors begin it with.

    Raises:
        ValueError: the file is not text.
        OSError: it does not exist or cannot be opened.
    """
    check_regular(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: byte {error.start} is no part of a letter") from error


def read_arrays(path: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an `.npz` that have one of these names, and the names of all its arrays.

    Raises:
        ValueError: the file is damaged, an array holds objects, or the arrays are far larger than the file.
        OSError: it does not exist or cannot be opened.
    """
    held: dict[str, np.ndarray] = {}
    name = ""
    with opened(path) as file:
        try:
            archive = zipfile.ZipFile(file)
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            wanted = [name for name in names if name in members]
            check_unpacked(path, sum(members[name].file_size for name in wanted))
            for name in wanted:
                with archive.open(members[name]) as member:
                    held[name] = _read_array(member, members[name].file_size)
        except Exception as error:  # of zipfile, of its decompressors or of NumPy
            advice = f"save `{name}` as strings or numbers, not as objects" if name else "give an .npz of np.savez"
            raise ValueError(f"{path} cannot be read ({reason(error)}): {advice}") from error
    return held, [name if name.isprintable() else repr(name) for name in members]


def read_array(path: Path) -> np.ndarray:
    """The array of an `.npy`; raises as `read_arrays` does."""
    with opened(path) as file:
        try:
            return _read_array(file, path.stat().st_size)
        except Exception as error:  # of NumPy
            raise ValueError(f"{path} cannot be read ({reason(error)}): give an .npy of np.save") from error


def read_tensors(path: str | os.PathLike, wanted: str = "a whole file that torch.save wrote") -> Any:
    """What `torch.save` wrote, if it consists of tensors on the CPU and plain values.

    Args:
        wanted: what an error asks for.

    Raises:
        ValueError: the file is damaged, holds anything else, or is far smaller than the tensors in it.
        OSError: it does not exist or cannot be opened.
    """
    path = Path(path)
    with opened(path) as file:
        if other := _other_kind(file):
            raise ValueError(f"{path} is {other}: give {wanted}")
        try:
            if zipfile.is_zipfile(file):
                check_unpacked(path, sum(member.file_size for member in zipfile.ZipFile(file).infolist()))
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            check_unpacked(path, sum(map(_size, _tensors(content))))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({reason(error)}): give {wanted}") from error
        except Exception as error:  # of zipfile, pickle or torch, whose messages are about their own code
            raise ValueError(f"{path} is damaged, or holds more than tensors: give {wanted}") from error
    return content


def _other_kind(file: IO[bytes]) -> str:
    """What a file is that `torch.save` cannot have written, as its first bytes or its members tell; else ""."""
    start = file.read(len(NPY))
    if not start:
        return "empty"
    if start == NPY:
        return "an array of np.save"
    try:
        names = zipfile.ZipFile(file).namelist()
    except Exception:  # of zipfile, from what is no archive, or a damaged one
        return ""
    if arrays := [name.removesuffix(".npy") for name in names if name.endswith(".npy")]:
        return f"an .npz with the arrays {', '.join(map(ascii, arrays[:5]))}"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a network in TorchScript"
    return "" if any(name.endswith("/data.pkl") for name in names) else "a zip archive of something else"


def check_unpacked(path: str | os.PathLike, size: int) -> None:
    """Refuse a small file that would fill the memory with this many bytes."""
    packed = os.stat(path).st_size
    if size > SMALL + LARGEST_RATIO * packed:
        raise ValueError(
            f"its {packed:,} bytes would become {size:,}, more than {LARGEST_RATIO} times as many, which numbers of "
            "embeddings or weights never do"
        )


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array in an `.npy` of this many bytes, all of which its header has to account for."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"an .npy of version {version[0]}.{version[1]} is not one of numbers or strings")
    shape, _, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    number, left = math.prod(shape), size - file.tell()
    if min(shape, default=0) < 0 or number * dtype.itemsize != left or number > left:
        raise ValueError(f"the header tells of {dtype} in the shape {shape}, but {left} bytes follow it")
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False)
    if dtype.kind == "U" and number:
        _check_letters(np.ascontiguousarray(array).reshape(-1))
    return array


def _check_letters(strings: np.ndarray) -> None:
    """Refuse numbers that are no code points: Python fails with a SystemError when it makes strings of them."""
    points = strings.view(np.dtype(np.uint32).newbyteorder(strings.dtype.byteorder))  # type: ignore[arg-type]
    if bool(((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any()):
        raise ValueError("its strings are no text")


def _size(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError("a tensor is sparse, quantised or without values")
    return tensor.numel() * tensor.element_size()


def _tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, each as often as it stands in one. Containers may hold themselves."""
    seen, left = set(), [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, Mapping) else value)
