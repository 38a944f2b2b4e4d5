"""The losses that `low_far.py` compares, and the settings that are tried for each: the same number for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


# alpha and the scale are coupled: classes are active in a window of the cosine of width 1 / ((alpha - 1) scale).
SPARSE = [
    *({"alpha": a, "scale": s, "margin": m} for m in (0.2, 0.4) for a, s in ((1.25, 16.0), (1.25, 32.0), (1.5, 10.0))),
    *({"alpha": a, "scale": s, "margin": m} for a, s, m in ((1.25, 10.0, 0.2), (1.25, 10.0, 0.4), (1.125, 16.0, 0.2))),
]


def around(*margins: float) -> list[Setting]:
    """The six settings that were tried first, and three more where those that did best were at the edge."""
    low, high, higher = margins
    first = all_of(scale=(16.0, 24.0, 32.0), margin=(low, high))
    return [*first, *({"scale": s, "margin": m} for s, m in ((12.0, high), (16.0, higher), (12.0, higher)))]


def doubled(settings: Iterable[Setting]) -> list[Setting]:
    """Margins for psi, which is about 1/2 on average."""
    return [{**setting, "margin": 2 * setting["margin"]} for setting in settings]


FAMILIES: dict[str, Family] = {
    "softmax": Family(softmax, all_of(scale=(4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 10.0, 14.0, 20.0))),
    "ArcFace": Family(vm.arcface, around(0.15, 0.3, 0.45)),
    "CosFace": Family(vm.cosface, around(0.1, 0.2, 0.3)),
    "entmax 1.25": Family(
        vm.entmax, all_of(alpha=(1.25,), scale=(16.0, 20.0, 24.0, 32.0, 40.0, 48.0, 8.0, 10.0, 12.0))
    ),
    "entmax 1.5": Family(vm.entmax, all_of(alpha=(1.5,), scale=(8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 4.0, 5.0, 6.0))),
    "Q-Margin": Family(vm.q_margin, SPARSE),
    "KappaFace": Family(vm.arcface, doubled(around(0.15, 0.3, 0.45)), adaptive=True),
    "AdaFace": Family(adaface, around(0.1, 0.2, 0.3)),
    "quality-adaptive Q-Margin": Family(quality_q_margin, SPARSE),
    "adaptive Q-Margin": Family(vm.q_margin, doubled(SPARSE), adaptive=True),
}


def loss_of(family: str, setting: Setting, psi: torch.Tensor | None = None) -> vm.MarginLoss:
    """The loss, with the margin factors psi of the tracker if it is adaptive."""
    loss = FAMILIES[family].make(**setting)
    loss.margin.psi = psi
    return loss
