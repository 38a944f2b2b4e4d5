"""``config.schedule``: the margin and the scale of config.loss on a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import verimargin as vm

KEYS = ("margin", "scale", "unit")


class ConfigSchedule(vm.Schedule):
    """The `vm.Schedule` of a config, a part of `PartialFC` and of its checkpoints.

    Args:
        settings: ``dict(margin=vm.Ramp(...), scale=vm.Ramp(...), unit="steps" or "epochs")``.
        loss: config.loss.

    Raises:
        ValueError: a key or a value is wrong, or as for `vm.Schedule`.
    """

    def __init__(self, settings: Mapping[str, Any], loss: vm.MarginLoss):
        example = 'dict(margin=vm.Ramp(0.0, 0.5, start=0, end=3), unit="epochs")'
        if not isinstance(settings, Mapping):
            raise ValueError(f"config.schedule is {settings!r}: give a dict, such as {example}")
        if unknown := [name for name in settings if name not in KEYS]:
            raise ValueError(f"config.schedule has {unknown[0]!r}: it may have {', '.join(KEYS)}, as in {example}")
        unit = settings.get("unit")
        if unit not in ("steps", "epochs"):
            raise ValueError(f'config.schedule has the unit {unit!r}: give "steps" or "epochs", as in {example}')
        self.unit = str(unit)
        super().__init__(loss, settings.get("margin"), settings.get("scale"))
