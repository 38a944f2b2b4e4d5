"""The momentum encoder of KappaFace: a slow copy of the network that is being trained (mathematics, section 3)."""

from __future__ import annotations

import copy
import itertools
import os
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from .._checks import check_at_least


class _Count(NamedTuple):
    """A number of steps. An encoder may be unpickled, or forked, into another process with the same count."""

    process: str
    pid: int
    steps: int
    taken: torch.Tensor | None  # how many of them a gradient scaler did not skip, on a device; None means all

    def since(self, earlier: _Count | None) -> bool | torch.Tensor:
        """Whether any step has changed the weights; a tensor if only the device knows."""
        if earlier is None or earlier[:2] != self[:2]:
            return True
        if self.taken is None or earlier.steps == self.steps:
            return earlier.steps != self.steps
        return self.taken > (earlier.steps if earlier.taken is None else earlier.taken.to(self.taken.device))


class _OptimizerSteps:
    """Counts the steps of all optimisers in this process, with one hook that holds no reference to any encoder."""

    def __init__(self) -> None:
        self.process, self.steps = uuid.uuid4().hex, 0
        self.taken: torch.Tensor | None = None
        self.handle = register_optimizer_step_post_hook(self._note_step)

    def now(self) -> _Count:
        return _Count(self.process, os.getpid(), self.steps, self.taken)

    def _note_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        # A gradient scaler calls the step of a fused optimiser also if it is to be skipped, and says so on the device.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None:
            taken = (found_inf == 0).long().reshape(())
            self.taken = taken + (self.steps if self.taken is None else self.taken.to(taken.device))
        elif self.taken is not None:
            self.taken = self.taken + 1
        self.steps += 1


_STEPS = _OptimizerSteps()


class MomentumEncoder(torch.nn.Module):
    """A copy of the encoder that follows it slowly: xi <- m xi + (1 - m) theta after each training step.

    Equivalent to::

        for xi, theta in zip(copy.state_dict().values(), encoder.state_dict().values()):
            xi.lerp_(theta, 1 - m)          # integers, such as BatchNorm's count of batches, are copied

    Calling the module returns the outputs of the copy, without gradients. BatchNorm's running statistics are averaged
    like the weights, because old weights do not go with the newest statistics. The copy is always in evaluation mode,
    so that the same input gives the same embedding and no random number is drawn. All of it is in the state dict, and
    none of it is trained.

    Args:
        encoder: the network that is being trained, not wrapped in DistributedDataParallel.
        momentum: m, in [0, 1). 0.999 averages over about a thousand steps: with only a few hundred steps per epoch
            choose a smaller one, or the copy hardly leaves the network's initial weights.

    >>> encoder = torch.nn.Linear(2, 2)
    >>> slow = MomentumEncoder(encoder, momentum=0.9)
    >>> slow.update(encoder)  # the first update copies, since the weights may have been loaded in the meantime
    >>> torch.equal(slow(torch.ones(1, 2)), encoder(torch.ones(1, 2)))
    True
    """

    def __init__(self, encoder: torch.nn.Module, momentum: float = 0.999):
        super().__init__()
        self.momentum = check_at_least("momentum", momentum, 0.0)
        if momentum >= 1.0:
            raise ValueError(f"momentum is {momentum}: give a number in [0, 1); at 1 the copy would never move")
        self.started = False
        self._followed: _Count | None = None  # when `follow` last moved the copy
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, encoder: torch.nn.Module) -> None:
        """Average in the weights and buffers of `encoder`, which has the same structure as the copy."""
        self._average(encoder, True)

    def follow(self, encoder: torch.nn.Module) -> None:
        """Call `update` if an optimiser has made a step since the last call.

        Nothing happens while gradients are being accumulated, or after a step that a gradient scaler skipped.
        """
        now = _STEPS.now()
        moved = now.since(self._followed)
        if moved is not False:
            self._average(encoder, moved)
            self._followed = now

    @torch.no_grad()
    def _average(self, encoder: torch.nn.Module, moved: bool | torch.Tensor) -> None:
        """`update`, or nothing where the tensor `moved` is False, which is not read back."""
        slow: list[torch.Tensor] = []
        fast: list[torch.Tensor] = []
        for xi, theta in zip(_tensors(self.encoder), _tensors(encoder)):
            if self.started and xi.is_floating_point():
                slow.append(xi)
                fast.append(theta)
            else:
                xi.copy_(theta)
        if isinstance(moved, torch.Tensor):
            fast = [torch.where(moved.to(xi.device), theta, xi) for xi, theta in zip(slow, fast)]
        if slow:
            torch._foreach_lerp_(slow, fast, 1.0 - self.momentum)
        self.started = True

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.encoder(*args, **kwargs)

    def train(self, mode: bool = True) -> MomentumEncoder:
        super().train(mode)
        self.encoder.eval()
        return self

    def get_extra_state(self) -> dict:
        return {"started": self.started}

    def set_extra_state(self, state: dict) -> None:
        self.started = state["started"]


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
