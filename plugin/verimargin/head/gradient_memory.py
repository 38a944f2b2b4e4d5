"""A buffer for the prototypes' gradient that is reused from step to step."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from torch import Tensor


class GradientMemory:
    """The memory of the prototypes' gradient, reused as soon as nothing refers to the previous gradient.

    On a CPU, touching a newly allocated (C, d) gradient for the first time costs as much as the step's matrix product.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._array: np.ndarray | None = None
        self._kind: tuple | None = None  # its shape and dtype
        self._lent: weakref.ref = weakref.ref(self)  # later, a reference to the view that lives as long as the gradient

    def zeros_like(self, weight: Tensor) -> Tensor:
        if weight.device.type != "cpu":
            return torch.zeros_like(weight)
        shape = tuple(weight.shape)
        with self._lock:  # two threads must not find it free at the same time
            if self._array is None or self._lent() is not None or self._kind != (shape, weight.dtype):
                self._array, self._kind = torch.empty_like(weight).numpy(), (shape, weight.dtype)
            view = self._array[:]
            self._lent = weakref.ref(view)
        return torch.from_numpy(view).zero_()

    def __reduce__(self) -> tuple:
        return GradientMemory, ()  # a copy of the head starts with its own memory
