"""A user's own network, named on the command line: a TorchScript or ONNX file, or a Python callable."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .onnx_metadata import recorded_encoder
from .reading import check_regular, opened, read_tensors, reason
from .torchscript import is_torchscript, scripted_state

FORMS = "a TorchScript file (.pt, .ts), an .onnx file, or module:name of a Python callable"
TORCH_FILES = (".pt", ".pth", ".ckpt", ".ts", ".jit")


def load_network(name: str, device: str | torch.device = "cpu") -> tuple[Callable[[Tensor], Tensor], str]:
    """A network as a function of tensors, and the fingerprint of its weights ("" for a callable that is no module).

    An ONNX file must have one input; it runs on the CPU, and its first output is used. "module:name" is imported from
    the working directory or the environment. Modules are put in evaluation mode.
    """
    path = Path(name)
    if path.suffix in (".onnx", *TORCH_FILES):
        check_regular(path)
        if not path.is_file():
            raise ValueError(f"the network {path} does not exist: give {FORMS}")
        if path.suffix == ".onnx":
            return _from_onnx(path), fingerprint(path)
        try:
            return torch.jit.load(path, map_location=device).eval(), fingerprint(path)
        except RuntimeError as error:
            raise ValueError(f"{path} is no TorchScript file: save it by torch.jit.save, or give {FORMS}") from error
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"the network {name!r} is not known: give {FORMS}")
    network = _from_python(module, attribute)
    if isinstance(network, torch.nn.Module):
        network = network.to(device).eval()
        return network, fingerprint(network)
    return network, ""


def fingerprint(encoder: torch.nn.Module | str | Path) -> str:
    """The SHA-256 of an encoder's weights: of the names, dtypes, shapes and values in its state dict.

    It is the same for a module, for a file of its state dict and for its TorchScript file, and for an .onnx file that
    was exported by this package or by its launcher. For any other file it is the SHA-256 of the bytes. Nothing
    that a file holds is run. A module without weights has none (""). An .onnx file that was edited after the export
    keeps the fingerprint that it was exported with.
    """
    if not isinstance(encoder, torch.nn.Module) and Path(encoder).is_dir():
        raise ValueError(f"the encoder {encoder} is a folder: give its file, such as embedding_model.ckpt or model.pt")
    if Path(str(encoder)).suffix == ".onnx" and (recorded := recorded_encoder(Path(str(encoder)))):
        return recorded
    digest = hashlib.sha256()
    state = encoder.state_dict() if isinstance(encoder, torch.nn.Module) else _state_of(Path(encoder))
    if state is None:
        with opened(encoder) as file:  # type: ignore[arg-type]
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    if not state:
        return ""
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _state_of(path: Path) -> dict | None:
    """The state dict of a TorchScript file, or of a torch file that holds only tensors; None for any other file."""
    if path.suffix not in TORCH_FILES:
        return None
    try:
        state = scripted_state(path) if is_torchscript(path) else read_tensors(path)
    except ValueError:  # not a file of plain tensors
        return None
    # a network that was frozen has its weights among its constants, and an empty state
    return state if isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values()) else None


def _from_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime, whose exceptions have only this class in common
        raise ValueError(f"{path} is no ONNX file that can be run: {reason(error)}") from error
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != 1:
        raise ValueError(f"{path} has the inputs {names}: give a network with one input")

    def run(x: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {names[0]: x.detach().cpu().numpy()})[0])
        except Exception as error:
            raise ValueError(f"{path} does not run on an input {tuple(x.shape)}: {reason(error)}") from error

    return run


def _from_python(module: str, attribute: str) -> Callable[[Tensor], Tensor]:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, which an installed command does not search
    try:
        network = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{module}:{attribute} cannot be imported ({error}): run the command in the folder of {module}.py"
        ) from error
    except AttributeError:
        raise ValueError(f"the module {module} has no {attribute}: give module:name of a callable") from None
    if not callable(network):
        raise ValueError(f"{module}:{attribute} is a {type(network).__name__}: give a function or a torch module")
    return network
