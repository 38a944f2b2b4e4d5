"""The losses that `low_far.py` compares, and the settings that are tried for each: the same number for all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
import verimargin as vm

QUALITY_MOMENTUM = 0.05  # the usual 0.01 takes most of these short trainings to forget the start values

Setting = dict[str, float]


class Family(NamedTuple):
    """A loss and its settings; one that is `adaptive` has a margin for each class, which a `vm.KappaTracker` sets."""

    make: Callable[..., vm.MarginLoss]
    grid: list[Setting]
    adaptive: bool = False


def all_of(**values: tuple[float, ...]) -> list[Setting]:
    return [dict(zip(values, numbers)) for numbers in product(*values.values())]


def softmax(scale: float) -> vm.MarginLoss:
    return vm.MarginLoss(vm.NoMargin(), scale=scale)


def adaface(scale: float, margin: float) -> vm.MarginLoss:
    return vm.MarginLoss(vm.AdaMargin(margin, momentum=QUALITY_MOMENTUM), scale=scale)


def quality_q_margin(alpha: float, scale: float, margin: float) -> vm.MarginLoss:
    return vm.q_margin(alpha, scale, margin, vm.Quality(momentum=QUALITY_MOMENTUM))


# alpha and the scale are coupled. The window 1 / ((alpha - 1) scale), in which classes are active, is 0.25 at most.
SPARSE = [{"alpha": 1.25, "scale": 16.0}, {"alpha": 1.25, "scale": 32.0}, {"alpha": 1.5, "scale": 10.0}]

FAMILIES: dict[str, Family] = {
    "softmax": Family(softmax, all_of(scale=(4.0, 8.0, 12.0, 16.0, 24.0, 32.0))),
    "ArcFace": Family(vm.arcface, all_of(scale=(16.0, 24.0, 32.0), margin=(0.15, 0.3))),
    "CosFace": Family(vm.cosface, all_of(scale=(16.0, 24.0, 32.0), margin=(0.1, 0.2))),
    "entmax 1.25": Family(vm.entmax, all_of(alpha=(1.25,), scale=(16.0, 20.0, 24.0, 32.0, 40.0, 48.0))),
    "entmax 1.5": Family(vm.entmax, all_of(alpha=(1.5,), scale=(8.0, 10.0, 12.0, 16.0, 20.0, 24.0))),
    "Q-Margin": Family(vm.q_margin, [{**s, "margin": m} for m in (0.2, 0.4) for s in SPARSE]),
    # psi is about 1/2 on average, so m is twice as large
    "KappaFace": Family(vm.arcface, all_of(scale=(16.0, 24.0, 32.0), margin=(0.3, 0.6)), adaptive=True),
    "AdaFace": Family(adaface, all_of(scale=(16.0, 24.0, 32.0), margin=(0.1, 0.2))),
    "quality-adaptive Q-Margin": Family(quality_q_margin, [{**s, "margin": m} for m in (0.2, 0.4) for s in SPARSE]),
    "adaptive Q-Margin": Family(vm.q_margin, [{**s, "margin": m} for m in (0.4, 0.8) for s in SPARSE], adaptive=True),
}


def loss_of(family: str, setting: Setting, psi: torch.Tensor | None = None) -> vm.MarginLoss:
    """The loss, with the margin factors psi of the tracker if it is adaptive."""
    loss = FAMILIES[family].make(**setting)
    loss.margin.psi = psi
    return loss
