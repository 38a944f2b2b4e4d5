"""Which road an operation takes: its Triton kernel or its plain PyTorch reference. The only module that knows Triton.

Triton comes with torch for CUDA only, so it may be missing. TRITON_INTERPRET=1, set before the first import, runs the
kernels on the CPU; that is how they are tested.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor


class KernelWarning(RuntimeWarning):
    """The Triton kernels cannot be used; the step runs in plain PyTorch instead, with the same result."""


def is_recent(version: str) -> bool:
    """Whether the kernels are tested with this version of Triton; torch 2.11 comes with 3.6."""
    return tuple(int(part) for part in version.split(".")[:2]) >= (3, 6)


try:
    import triton
    import triton.language as tl

    AVAILABLE = is_recent(getattr(triton, "__version__", "0.0"))  # a mere folder of this name has no version
except Exception as error:
    AVAILABLE, tl = False, None
    if importlib.util.find_spec("triton") is not None:
        warnings.warn(
            f"Triton is installed, but cannot be imported ({type(error).__name__}: {error}): the head runs in plain "
            "PyTorch, which computes the same result, more slowly; install the Triton that belongs to this torch",
            KernelWarning,
            stacklevel=2,
        )
INTERPRETED = AVAILABLE and os.environ.get("TRITON_INTERPRET") == "1"
LARGEST_SIZE = 4096  # of an embedding: some kernels hold whole rows in registers
Result = TypeVar("Result")


def jit(kernel: Callable) -> Any:
    """triton.jit; without Triton the kernel is never launched, and stays as it is."""
    return triton.jit(kernel) if AVAILABLE else kernel


class _State:
    failed = False  # once a kernel has failed to compile, none is tried again


def has_kernels(*rows: Tensor) -> bool:
    """Whether the kernels can take these tensors (n, d): float32 or float16, on a GPU, none empty, d not too large."""
    if not AVAILABLE or _State.failed or not _is_recent_gpu(rows[0].device):
        return False
    device = "cpu" if INTERPRETED else "cuda"
    return all(
        x.device.type == device and x.dtype in (torch.float32, torch.float16) and x.numel() > 0 and _is_short(x)
        for x in rows
    )


def _is_recent_gpu(device: torch.device) -> bool:
    """Whether the kernels were written for it: they need the shared memory of compute capability 8.0."""
    if device.type != "cuda" or not torch.cuda.is_available():  # the CPU of the interpreter, or a pretended GPU
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def _is_short(x: Tensor) -> bool:
    return x.dim() < 2 or x.shape[1] <= LARGEST_SIZE


def run(kernels: Callable[[], Result], reference: Callable[[], Result], *rows: Tensor) -> Result:
    """The result of the kernels if they can take these tensors, otherwise that of the reference.

    A Triton that fails to compile or to launch a kernel leads to one warning, and to the reference from then on. An
    error of the device itself is raised by the reference too.
    """
    if not has_kernels(*rows):
        return reference()
    try:
        return kernels()
    except torch.OutOfMemoryError:
        raise  # the reference would need more memory, not less
    except Exception as error:
        _State.failed = True
        warnings.warn(
            f"the Triton kernels of the head do not run here ({type(error).__name__}: {error}): plain PyTorch computes "
            "the same result, more slowly; check that Triton fits this torch and that a C compiler is installed",
            KernelWarning,
            stacklevel=2,
        )
        return reference()


def launch(kernel: Any, programs: int, *arguments: Tensor | float, **constants: Any) -> None:
    """Start `programs` programs of a kernel on the device of its first argument."""
    first = arguments[0]
    assert isinstance(first, Tensor)
    if first.device.type == "cuda":
        with torch.cuda.device(first.device):  # Triton launches on the current device
            kernel[(programs,)](*arguments, **constants)
    else:
        kernel[(programs,)](*arguments, **constants)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n: the shapes of Triton's tensors are powers of two."""
    return 1 << max(n - 1, 0).bit_length()


def blocks(n: int, size: int) -> int:
    """The number of blocks of `size` that n entries need."""
    return -(-n // size)
