"""What `score` is asked for, refused where an option needs another one or nothing would be done with it."""

from __future__ import annotations

from pathlib import Path

from .._checks import check_share
from .options import TAU

AUTO = "auto"


def tau_of(text: str | None) -> float:
    """The number that a text is, or the default."""
    try:
        return TAU if text is None else float(text)
    except ValueError:
        raise ValueError(f"--tau is {text!r}: give a number, or auto") from None


def check_choices(
    tau: str | None,
    anchors: Path | None,
    dev: Path | None,
    dev_embeddings: Path | None,
    calibration: Path | None,
    fars: list[float],
    at_far: float | None,
) -> None:
    """Refuse options that need another one which is not given, or that nothing would be done with."""
    if tau != AUTO:
        tau_of(tau)
    elif not (anchors and dev):
        raise ValueError("--tau auto chooses the tau of IDA-R on a list of its own: give --anchors and --dev")
    for name, values in (("--far", fars), ("--at-far", [] if at_far is None else [at_far])):
        for value in values:
            check_share(name, value, "(0, 1)")
    if fars and not (dev or calibration):
        raise ValueError(
            "--far asks for a threshold, which must not be found on the trials that it is judged on: give other trials "
            "as --dev, or a --calibration that has thresholds"
        )
    if dev and not fars and tau != AUTO:
        raise ValueError("--dev is for thresholds or tau, and nothing is chosen on it: give --far, or --tau auto")
    if dev_embeddings and not dev:
        raise ValueError("--dev-embeddings belong to a list: give it as --dev")
