"""The weights in a TorchScript file, read without running it: `torch.jit.load` runs each module's `__setstate__`.

The archive holds the modules as a pickle (data.pkl), whose classes are named `__torch__...`; their source (code/), in
the syntax of Python, says which attributes are parameters and buffers; and the numbers (data/0, data/1, ...).
Format: torch/csrc/jit/docs/serialization.md in PyTorch.
"""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pickles import DEEPEST, PLAIN, check_pickle
from .reading import check_unpacked, opened, reason

INSTRUCTIONS = PLAIN | {"EMPTY_DICT", "SETITEM", "SETITEMS", "NEWOBJ", "BINPERSID"}
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: str | Path) -> bool:
    with opened(path) as file:
        try:
            return any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(file).namelist())
        except Exception:  # of zipfile, from another file
            return False


def scripted_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a TorchScript file, equal to ``torch.jit.load(path).state_dict()``.

    Raises:
        ValueError: the file is damaged, or the weights of a module are not its attributes, as if it is quantised.
    """
    with opened(path) as file:
        try:
            archive = zipfile.ZipFile(file)
            check_unpacked(path, sum(member.file_size for member in archive.infolist()))
            state = _Archive(archive).state()
            check_unpacked(path, sum(value.numel() * value.element_size() for value in state.values()))
        except Exception as error:  # of zipfile, pickle or torch, from a damaged file
            raise ValueError(f"{path} cannot be read without running it ({reason(error)})") from error
    return state


class _Object:
    """What the archive makes an instance of: it keeps the attributes and does nothing."""

    qualified = ""
    attributes: Any = None

    def __new__(cls, *_: Any) -> _Object:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Archive(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        (self._folder,) = {name.partition("/")[0] for name in archive.namelist()}
        content = archive.read(f"{self._folder}/data.pkl")
        check_pickle(content, INSTRUCTIONS, DEEPEST)
        super().__init__(io.BytesIO(content))
        self._storages: dict[str, Tensor] = {}
        self._classes: dict[str, type[_Object]] = {}
        self._sources: dict[str, dict[str, tuple[list[str], bool]]] = {}

    def state(self) -> dict[str, Tensor]:
        return dict(self._weights(self.load(), "", ()))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        qualified = f"{module}.{name}"
        return self._classes.setdefault(qualified, type("_Named", (_Object,), {"qualified": qualified}))

    def persistent_load(self, reference: Any) -> Tensor:
        """The numbers of a storage, (N,)."""
        _, dtype, key, _, number = reference
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}/data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if number else torch.empty(0, dtype=dtype)
        return self._storages[key]

    def _weights(self, module: _Object, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
        weights, has_own_state = self._source(module.qualified)
        if has_own_state or not isinstance(module.attributes, dict) or id(module) in above:
            raise ValueError(f"{module.qualified} keeps its state by a method of its own")
        for name, value in module.attributes.items():
            if name in weights and isinstance(value, Tensor):
                yield prefix + name, value
            elif isinstance(value, _Object) and value.qualified.startswith("__torch__.") and self._is_module(value):
                yield from self._weights(value, f"{prefix}{name}.", (*above, id(module)))

    def _is_module(self, value: _Object) -> bool:
        module, _, name = value.qualified.rpartition(".")
        return name in self._classes_of(module)

    def _source(self, qualified: str) -> tuple[list[str], bool]:
        module, _, name = qualified.rpartition(".")
        return self._classes_of(module)[name]

    def _classes_of(self, module: str) -> dict[str, tuple[list[str], bool]]:
        """For each class of modules in a file of code/: its parameters and buffers, and if it has `__getstate__`."""
        if module not in self._sources:
            source = self._archive.read(f"{self._folder}/code/{module.replace('.', '/')}.py")
            nodes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
            self._sources[module] = {node.name: _described(node) for node in nodes if _derives_from_module(node)}
        return self._sources[module]


def _derives_from_module(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Module" for base in node.bases)


def _described(node: ast.ClassDef) -> tuple[list[str], bool]:
    weights: list[str] = []
    assigned = [line for line in node.body if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)]
    for line in assigned:
        if line.targets[0].id in ("__parameters__", "__buffers__"):  # type: ignore[attr-defined]
            weights += ast.literal_eval(line.value)
    return weights, any(isinstance(line, ast.FunctionDef) and line.name == "__getstate__" for line in node.body)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
