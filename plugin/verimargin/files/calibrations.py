"""Files of calibrations and thresholds: JSON, so that anybody can read and check them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..scoring.calibration import Calibration
from .reading import opened, read_text
from .whole import new_file, whole

FORMAT, VERSION = "verimargin calibration", 1


class FarThreshold(NamedTuple):
    """A threshold of calibrated scores for a false accept rate, and its interval if there is one."""

    far: float
    threshold: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class CalibratedMethod:
    title: str  # with the settings that the scores depend on
    calibration: Calibration
    thresholds: list[FarThreshold]


@dataclass(frozen=True)
class Calibrations:
    """What `verimargin calibrate` found.

    Attributes:
        trials: `describe_list` of the list that everything was fitted on, and what it is known again by.
        encoder: fingerprint of the encoder of the scored embeddings; "" if it is unknown.
        prior: the prior of a target trial that the calibrations are best for.
        inputs: what else the scores and qualities depend on: the digests of cohort, anchors and regressor.
        methods: by name.
    """

    trials: dict[str, Any]
    encoder: str
    prior: float
    inputs: dict[str, str]
    methods: dict[str, CalibratedMethod]


def describe_list(path: str | Path, **counts: int) -> dict[str, Any]:
    """The name of a trial list, the SHA-256 of its content, and its counts."""
    return {"name": Path(path).name, "sha256": digest(path), **counts}


def digest(path: str | Path) -> str:
    """The SHA-256 of a file's content."""
    found = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def write_calibrations(path: str | Path, calibrations: Calibrations) -> None:
    """Write a new .json that `read_calibrations` reads."""
    methods = {name: _as_json(method) for name, method in calibrations.methods.items()}
    kept = {"format": FORMAT, "version": VERSION, **vars(calibrations), "methods": methods}
    with whole(new_file(path, ".json")) as partial:
        partial.write_text(json.dumps(kept, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_calibrations(path: str | Path) -> Calibrations:
    """The calibrations of a file.

    Raises:
        ValueError: it does not exist, is of another kind or a later version, or a number in it is none.
    """
    if not Path(path).is_file():
        raise ValueError(f"the calibration {path} does not exist: make it with verimargin calibrate")
    try:
        held = json.loads(read_text(path))
        if held["format"] != FORMAT:
            raise ValueError("another format")
        version = int(held["version"])
        if version <= VERSION:
            methods = {name: _from_json(method) for name, method in held["methods"].items()}
            trials, inputs = dict(held["trials"]), {name: str(value) for name, value in held["inputs"].items()}
            return Calibrations(trials, str(held["encoder"]), _number(held["prior"]), inputs, methods)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no calibration: give a file that verimargin calibrate wrote") from error
    raise ValueError(f"{path} has version {version} of its format, this verimargin knows {VERSION}: update it")


def _as_json(method: CalibratedMethod) -> dict[str, Any]:
    calibration = method.calibration
    return {
        "title": method.title,
        "offset": calibration.offset,
        "scale": calibration.scale,
        "qualities": {name: {"low": low, "high": high} for name, (low, high) in calibration.qualities.items()},
        "thresholds": [threshold._asdict() for threshold in method.thresholds],
    }


def _from_json(held: dict[str, Any]) -> CalibratedMethod:
    qualities = {name: (_number(w["low"]), _number(w["high"])) for name, w in held["qualities"].items()}
    thresholds = [
        FarThreshold(_number(t["far"]), _number(t["threshold"]), _ends(t["interval"])) for t in held["thresholds"]
    ]
    calibration = Calibration(_number(held["offset"]), _number(held["scale"]), qualities)
    return CalibratedMethod(str(held["title"]), calibration, thresholds)


def _ends(held: list | None) -> tuple[float, float] | None:
    if held is None:
        return None
    low, high = held
    return _number(low), _number(high)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
