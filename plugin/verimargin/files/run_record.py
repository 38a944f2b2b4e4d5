"""What a run trains with, kept as JSON beside its checkpoints, so that no other run goes on from them unnoticed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .whole import whole

NAME = "verimargin.json"


def settings_of(loss: torch.nn.Module) -> dict[str, Any]:
    """What a loss consists of, and the numbers and texts that its parts were made with.

    >>> from verimargin import q_margin
    >>> settings = settings_of(q_margin(alpha=1.5, scale=10.0))
    >>> settings["loss"], settings["MarginLoss.scale"]
    ('MarginLoss QMargin', 10.0)
    """
    found: dict[str, Any] = {"loss": " ".join(type(part).__name__ for part in loss.modules())}
    for part in loss.modules():
        for name, value in vars(part).items():
            if isinstance(value, (int, float, str)) and name != "training":
                found[f"{type(part).__name__}.{name.lstrip('_')}"] = value
    return found


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None if it has not recorded them."""
    path = Path(folder, NAME)
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no record of a run's settings: move it, or give another folder")
    return settings


def write_record(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of the run that begins in a folder."""
    with whole(Path(folder, NAME)) as partial:
        partial.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")


def differences(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words; "" if there are none.

    One that only one of them names does not count: a later release may have it, or a user may write out a default.

    >>> differences({"QMargin.m": 0.2, "MarginLoss.scale": 10.0}, {"QMargin.m": 0.2, "MarginLoss.scale": 32.0})
    'MarginLoss.scale is 10.0 there and 32.0 here'
    """
    ours = json.loads(json.dumps(dict(ours)))  # as it would come back from a file
    common = [name for name in saved if name in ours]
    return ", ".join(
        f"{name} is {saved[name]} there and {ours[name]} here" for name in common if ours[name] != saved[name]
    )
