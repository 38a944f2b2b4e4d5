"""Margins and scales that change during training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from .._checks import check_at_least, check_integer
from .margin_loss import MarginLoss
from .margins import NoMargin

LEFT = 1e-3  # the share of the way that an exponential ramp has left when it ends, as in wespeaker


@dataclass(frozen=True)
class Ramp:
    """A number that goes from `initial` to `final` while a count of steps or epochs goes from `start` to `end`.

    With x = (t - start) / (end - start)::

        t < start            initial
        start <= t < end     initial + (final - initial) * x                    shape "linear"
                             initial + (final - initial) * (1 - 0.001**x)       shape "exponential"
        end <= t             final

    Args:
        initial, final: >= 0. An `initial` of 0 warms a margin up.
        start, end: integers, 0 <= start <= end, and end >= 1. If they are equal, the number jumps there.
        shape: "linear", or "exponential", which does most of the way at its beginning.

    Source of the exponential shape: wespeaker's MarginScheduler.

    >>> [Ramp(0.0, 0.2, start=2, end=6)(t) for t in (0, 2, 4, 6, 9)]
    [0.0, 0.0, 0.1, 0.2, 0.2]
    """

    initial: float
    final: float
    start: int = 0
    end: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("initial", "final"):
            object.__setattr__(self, name, check_at_least(f"Ramp's {name}", getattr(self, name), 0.0))
        for name in ("start", "end"):
            object.__setattr__(self, name, check_integer(f"Ramp's {name}", getattr(self, name), 0))
        if self.end < self.start:
            raise ValueError(f"Ramp's end is {self.end}, before its start {self.start}: give an end >= start")
        if self.end == 0 and self.initial != self.final:
            raise ValueError(
                f"Ramp's end is 0, so that the number is {self.final:g} from the first step on and never "
                f"{self.initial:g}: give the step or epoch at which it arrives, as end"
            )
        if self.shape not in ("linear", "exponential"):
            raise ValueError(f"Ramp's shape is {self.shape!r}: give 'linear' or 'exponential'")

    def __call__(self, t: int) -> float:
        if t < self.start:
            return self.initial
        if t >= self.end:
            return self.final
        x = (t - self.start) / (self.end - self.start)
        return self.initial + (self.final - self.initial) * (x if self.shape == "linear" else 1.0 - LEFT**x)

    @property
    def largest(self) -> float:
        return max(self.initial, self.final)


class Schedule(torch.nn.Module):
    """Sets the margin and the scale of a loss as training goes on.

    Equivalent, before the step number t = 0, 1, ..., to::

        loss.margin.m = margin(t)
        loss.scale = scale(t)

    With KappaFace the margin of class y is psi_y margin(t). Count either steps or epochs::

        schedule = vm.Schedule(loss, margin=vm.Ramp(0.0, 0.2, start=0, end=20_000))
        for embeddings, labels in batches:
            head(embeddings, labels).backward()
            optimizer.step()
            schedule.step()

    Validation does not count, because it does not call `step`. The count, the margin and the scale are in the state
    dict, and are the same on all ranks, so that training resumes exactly, on any number of ranks.

    Args:
        loss: a `MarginLoss`; it gets the values for t = 0 at once.
        margin, scale: a `Ramp` each; None leaves the loss's own value.

    Attributes:
        count: t.

    Raises:
        ValueError: neither is given, the loss has no margin to schedule, or the largest margin and the largest scale
            together are more than the loss allows.

    >>> from verimargin import q_margin
    >>> loss = q_margin(alpha=1.5, scale=10.0, margin=0.2)
    >>> schedule = Schedule(loss, margin=Ramp(0.0, 0.2, start=0, end=4))
    >>> schedule.step()
    >>> loss.margin.m
    0.05
    """

    def __init__(self, loss: MarginLoss, margin: Ramp | None = None, scale: Ramp | None = None):
        super().__init__()
        if isinstance(getattr(loss, "loss", None), MarginLoss):
            raise ValueError(f"loss is a {type(loss).__name__}: give its loss, as in Schedule(head.loss, margin=...)")
        if not isinstance(loss, MarginLoss):
            raise ValueError(f"loss is {loss!r}: give the MarginLoss that is trained with")
        for name, ramp in (("margin", margin), ("scale", scale)):
            if ramp is not None and not isinstance(ramp, Ramp):
                raise ValueError(f"the schedule's {name} is {ramp!r}: give a Ramp(initial, final, start, end), or None")
        if margin is None and scale is None:
            raise ValueError("the schedule has neither a margin nor a scale: give a Ramp for one of them")
        if margin is not None and isinstance(loss.margin, NoMargin):
            raise ValueError("the schedule has a margin, and the loss has none: give it one, such as QMargin(0.0)")
        self._loss = [loss]  # in a list, so that it does not become a submodule too
        self.margin, self.scale = margin, scale
        if scale is not None:
            check_at_least("the schedule's smallest scale", min(scale.initial, scale.final), 0.0, strict=True)
        self._check_largest()
        self.set_count(0)

    def _check_largest(self) -> None:
        """Have a loss with the largest margin and the largest scale made, which checks them."""
        (loss,) = self._loss
        margin = copy.deepcopy(loss.margin)
        if self.margin is not None:
            margin.m = self.margin.largest
        MarginLoss(margin, loss.alpha, scale=loss.scale if self.scale is None else self.scale.largest)

    def step(self) -> None:
        """Go on by one step, or by one epoch; call it after the optimiser's."""
        self.set_count(self.count + 1)

    def set_count(self, count: int) -> None:
        """Go to a step or an epoch."""
        self.count = check_integer("the schedule's count", count, 0)
        (loss,) = self._loss
        if self.margin is not None:
            loss.margin.m = self.margin(self.count)
        if self.scale is not None:
            loss.scale = self.scale(self.count)

    def settings(self) -> dict[str, str]:
        """What must not change between the checkpoints of a run."""
        return {f"Schedule.{name}": str(getattr(self, name)) for name in ("margin", "scale")}

    def get_extra_state(self) -> dict[str, Any]:
        (loss,) = self._loss
        return {"count": self.count, "margin": loss.margin.m, "scale": loss.scale}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.set_count(state["count"])

    def extra_repr(self) -> str:
        return f"margin={self.margin}, scale={self.scale}, count={self.count}"
