"""All compatibility fixes: what upstream's scripts need and today's libraries lack. The launcher applies them.

Each `Fix` has a name and a reason, tests whether the behaviour is missing on this machine, and supplies it. A library
that still behaves as the scripts expect is left alone. The weights_only default of `torch.load` needs no fix: the
scripts load only their own files, which open with it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import inspect
import multiprocessing
import os
import pathlib
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from .rank_files import save_whole


class Fix(NamedTuple):
    name: str
    why: str
    needed: Callable[[str], bool]  # both functions receive the path of the script
    apply: Callable[[str], None]


def _set(owner: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(owner, name, value)


# Libraries that are missing or have changed.

NUMPY_NAMES = {"int": int, "float": float, "bool": bool}


def _numpy_names_missing(_: str) -> bool:
    return not all(name in np.__dict__ for name in NUMPY_NAMES)


def _add_numpy_names(_: str) -> None:
    for name, builtin in NUMPY_NAMES.items():
        if name not in np.__dict__:
            setattr(np, name, builtin)


def _missing(module: str) -> Callable[[str], bool]:
    """A test of whether a module is missing. A folder of its name without code, as eval_ijbc.py makes one, does not
    count as the module.
    """

    def missing(_: str) -> bool:
        spec = None if module in sys.modules else importlib.util.find_spec(module)
        return module not in sys.modules and (spec is None or spec.origin is None)

    return missing


def _add_mxnet(_: str) -> None:
    from .mxnet_names import modules

    sys.modules.update(modules())


def _add_menpo(_: str) -> None:
    def sample_colours_from_colourmap(n_colours: int, colour_map: str) -> list:
        from matplotlib import colormaps

        return [colormaps[colour_map](i / max(n_colours - 1, 1)) for i in range(n_colours)]

    for name in ("menpo", "menpo.visualize", "menpo.visualize.viewmatplotlib"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__["sample_colours_from_colourmap"] = sample_colours_from_colourmap


def _python_package(script: str) -> str | None:
    """The folder of the insightface package in the script's checkout."""
    for parent in pathlib.Path(script).resolve().parents:
        if (parent / "python-package" / "insightface").is_dir():
            return str(parent / "python-package")
    return None


def _insightface_is_only_there(script: str) -> bool:
    return _missing("insightface")(script) and _python_package(script) is not None


def _add_insightface(script: str) -> None:
    sys.path.append(str(_python_package(script)))


def _scheduler_lacks_verbose(_: str) -> bool:
    return "verbose" not in inspect.signature(lr_scheduler.LRScheduler.__init__).parameters


def _accept_verbose(_: str) -> None:
    original = lr_scheduler.LRScheduler.__init__

    def __init__(
        self: Any, optimizer: torch.optim.Optimizer, last_epoch: int = -1, verbose: bool | str = False
    ) -> None:
        original(self, optimizer, last_epoch)

    _set(lr_scheduler.LRScheduler, __init__=__init__)


def _similarity() -> Any:
    if importlib.util.find_spec("skimage") is None:
        return None
    return importlib.import_module("skimage.transform").SimilarityTransform


def _no_estimate(_: str) -> bool:
    return _similarity() is not None and not hasattr(_similarity(), "estimate")


def _add_estimate(_: str) -> None:
    def estimate(self: Any, src: np.ndarray, dst: np.ndarray) -> bool:
        found = type(self).from_estimate(src, dst)
        if not found:  # a falsy failure object
            return False
        self.params = found.params
        return True

    _set(_similarity(), estimate=estimate)


def _slinear_refuses_ties(_: str) -> bool:
    if importlib.util.find_spec("scipy") is None:
        return False
    try:
        importlib.import_module("scipy.interpolate").interp1d([0, 0, 1], [0, 1, 2], kind="slinear")
    except ValueError:
        return True
    return False


def _slinear_is_linear(_: str) -> None:
    from scipy import interpolate

    class interp1d(interpolate.interp1d):  # kind "linear" is the same piecewise linear function, but accepts ties
        def __init__(self, x: np.ndarray, y: np.ndarray, kind: str = "linear", **kwargs: Any):
            super().__init__(x, y, "linear" if kind == "slinear" else kind, **kwargs)

    _set(interpolate, interp1d=interp1d)


def _export_records_nothing(_: str) -> bool:
    return not hasattr(torch.onnx.export, "traced")


def _export_by_tracing(_: str) -> None:
    from .onnx_export import dynamic_batch

    export = dynamic_batch(torch.onnx.export)
    _set(export, traced=True)
    _set(torch.onnx, export=export)


def _start_method_is_not_fork(_: str) -> bool:
    return multiprocessing.get_start_method() != "fork" and "fork" in multiprocessing.get_all_start_methods()


def _threads_fail_alone(_: str) -> bool:
    return threading.excepthook is threading.__excepthook__


def _end_with_the_reader(_: str) -> None:
    def excepthook(args: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(args)
        if type(args.thread).__name__ == "BackgroundGenerator":  # the reader thread in dataset.py
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    _set(threading, excepthook=excepthook)


def _save_is_in_place(_: str) -> bool:
    return not hasattr(torch.save, "whole")


def _save_whole(_: str) -> None:
    original = torch.save

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, (str, os.PathLike)):
            save_whole(original, obj, f, *args, **kwargs)
        else:
            original(obj, f, *args, **kwargs)

    save.whole = True  # type: ignore[attr-defined]
    _set(torch, save=save)


# Machines without a GPU.


def _no_gpu(_: str) -> bool:
    return not torch.cuda.is_available()


def _cuda_is_cpu(_: str) -> None:
    """Make every call by which the scripts name a GPU mean the CPU."""

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _is_gpu(args[0]):
            args = ("cpu", *args[1:])
        return original_to(self, *args, **_on_cpu(kwargs))

    def tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        return original_tensor(*args, **_on_cpu(kwargs))

    original_to, original_tensor = torch.Tensor.to, torch.tensor
    _set(torch, tensor=tensor)
    _set(torch.Tensor, to=to, cuda=stay)
    _set(torch.nn.Module, cuda=stay)
    _set(torch.cuda, set_device=lambda device: None, Stream=_NoStream, current_stream=_NoStream)
    _set(torch.cuda, stream=lambda stream: contextlib.nullcontext())


class _NoStream:
    def __init__(self, device: Any = None):
        pass

    def wait_stream(self, stream: Any) -> None:
        pass


def _is_gpu(device: Any) -> bool:
    """Whether the scripts mean a GPU by this device: "cuda", or the local rank."""
    return (isinstance(device, int) and not isinstance(device, bool)) or str(device).startswith("cuda")


def _on_cpu(kwargs: dict) -> dict:
    return kwargs | {"device": "cpu"} if _is_gpu(kwargs.get("device")) else kwargs


def _gloo_for_nccl(_: str) -> None:
    original = dist.init_process_group

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        original("gloo" if backend == "nccl" else backend, *args, **kwargs)
        atexit.register(_leave_group)  # the scripts do not leave it, and gloo would abort the process at its end

    _set(dist, init_process_group=init_process_group)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _ddp_without_device_ids(_: str) -> None:
    original = DistributedDataParallel.__init__

    def __init__(self: Any, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        original(self, module, **kwargs)

    _set(DistributedDataParallel, __init__=__init__)


def _load_to_cpu(_: str) -> None:
    original = torch.load

    def load(f: Any, map_location: Any = "cpu", **kwargs: Any) -> Any:
        return original(f, map_location, **kwargs)

    _set(torch, load=load)


FIXES = (
    Fix("numpy.int", "NumPy 1.24 removed np.int and np.float", _numpy_names_missing, _add_numpy_names),
    Fix(
        "mxnet",
        "mxnet is not installed; verimargin supplies its RecordIO and image functions",
        _missing("mxnet"),
        _add_mxnet,
    ),
    Fix("menpo", "menpo is not installed; its colours come from matplotlib", _missing("menpo"), _add_menpo),
    Fix(
        "insightface",
        "insightface is not installed; the checkout's python-package is used",
        _insightface_is_only_there,
        _add_insightface,
    ),
    Fix("LRScheduler.verbose", "torch 2.7 removed LRScheduler(verbose=)", _scheduler_lacks_verbose, _accept_verbose),
    Fix(
        "SimilarityTransform",
        "scikit-image removed SimilarityTransform.estimate",
        _no_estimate,
        _add_estimate,
    ),
    Fix(
        "interp1d.slinear",
        "scipy refuses ties in interp1d(kind='slinear'), but false accept rates have ties",
        _slinear_refuses_ties,
        _slinear_is_linear,
    ),
    Fix(
        "torch.onnx.export",
        "torch 2.9 exports by dynamo, without opset 11; models are traced, for any batch size, and name their weights",
        _export_records_nothing,
        _export_by_tracing,
    ),
    Fix(
        "multiprocessing.fork",
        "Python 3.14 does not fork workers by default, which the scripts' local functions need",
        _start_method_is_not_fork,
        lambda _: multiprocessing.set_start_method("fork", force=True),
    ),
    Fix(
        "reader thread",
        "an unreadable sample would end dataset.py's thread and leave training waiting; now it ends the run",
        _threads_fail_alone,
        _end_with_the_reader,
    ),
    Fix(
        "torch.save",
        "the scripts overwrite their checkpoints in place; a new one takes the old one's name when it is complete",
        _save_is_in_place,
        _save_whole,
    ),
    Fix("cuda", "there is no GPU; .cuda(), streams and device=local_rank mean the CPU", _no_gpu, _cuda_is_cpu),
    Fix("nccl", "there is no GPU; the ranks communicate by gloo", _no_gpu, _gloo_for_nccl),
    Fix("DDP.device_ids", "there is no GPU; the backbone is on the CPU", _no_gpu, _ddp_without_device_ids),
    Fix("torch.load", "there is no GPU; tensors that were saved on one are loaded to the CPU", _no_gpu, _load_to_cpu),
)
