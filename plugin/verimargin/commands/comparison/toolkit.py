"""What `verimargin compare` asks of a toolkit's adapter: how a training is started.

An adapter names an instance in the entry point group "verimargin.toolkits", under the name that an experiment file has
for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from .experiment import Experiment
from .losses import NamedLoss, suggestion

GROUP = "verimargin.toolkits"


@dataclass(frozen=True)
class Step:
    """A program of a run; started again after an interruption, it goes on where it was."""

    name: str
    command: Sequence[str]
    folder: Path  # that it is started in
    environment: Mapping[str, str] = field(default_factory=dict)


class Toolkit(Protocol):
    def check(self, experiment: Experiment) -> None:
        """Raise ValueError for what the experiment asks and the toolkit cannot do."""

    def with_loss(self, experiment: Experiment, loss: NamedLoss) -> str:
        """The text of the recipe that the loss is trained with, with what the loss and its settings change in it."""

    def training(
        self, experiment: Experiment, loss: NamedLoss, seed: int, devices: Sequence[str], folder: Path
    ) -> Step:
        """Write what the toolkit's script needs to `folder`, and return the step that leaves a run in folder/train.

        The devices are those that the run sees: "cpu", or "cuda:0", "cuda:1", ... for its ranks.
        """


@contextmanager
def refused(key: str) -> Iterator[None]:
    """Name the key of the experiment file in an error that has the words of a toolkit, or of another command."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key} is refused: {error}") from error


def positive_integer(key: str, value: Any) -> int:
    """The value of a key that counts something, such as classes or epochs."""
    if type(value) is not int or value < 1:
        raise ValueError(f"settings have {key} {value!r}: give a whole number of at least 1")
    return value


def check_number(key: str, value: Any, usual: Any) -> None:
    """Refuse text for a setting that is a number in the recipe, except for a reference of HyperPyYAML."""
    if isinstance(usual, (int, float)) and isinstance(value, str) and not value.startswith("!"):
        raise ValueError(f"settings have {key} {value!r}: give a number, as the recipe has {usual}")


def find_toolkit(name: str) -> Toolkit:
    """The adapter of the toolkit that an experiment names."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise ValueError(f"the toolkit {name!r} is unknown: {suggestion(name, sorted(found))}")
    return found[name].load()
