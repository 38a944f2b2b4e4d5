"""The losses that an experiment file can name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import verimargin as vm


def presets() -> dict[str, Callable[..., vm.MarginLoss]]:
    """The functions of the package that return a `MarginLoss`, by name."""
    functions = {name: getattr(vm, name) for name in vm.__all__ if inspect.isfunction(getattr(vm, name))}
    return {
        name: f for name, f in functions.items() if f.__annotations__.get("return") in ("MarginLoss", vm.MarginLoss)
    }


@dataclass(frozen=True)
class NamedLoss:
    """One entry of `losses` in an experiment file.

    Attributes:
        title: its name in the report.
        function: the name of one of the `presets`; empty for the recipe's own loss.
        options: the arguments of the function, with those of `verimargin.Quality` for `quality`.
        kappa: KappaFace's settings, where the toolkit takes them.
        settings: keys of the recipe, for this loss only.
        recipe: another recipe than the experiment's.
    """

    title: str
    function: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    kappa: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""

    def build(self) -> vm.MarginLoss:
        """The loss; only with a function."""
        options = dict(self.options)
        if "quality" in options:
            options["quality"] = vm.Quality(**options["quality"])
        return presets()[self.function](**options)

    def complete(self) -> dict[str, Any]:
        """What is trained, apart from the recipe: with the arguments that it leaves at the function's defaults."""
        options = dict(self.options)
        if self.function:
            bound = inspect.signature(presets()[self.function]).bind(**options)
            bound.apply_defaults()
            options = bound.arguments
        return {"function": self.function, "options": options, "kappa": self.kappa}


OWN = ("loss", "kappa", "settings", "recipe")


def read_loss(title: str, entry: Any) -> NamedLoss:
    """The loss of an entry such as {loss: q_margin, alpha: 1.5, scale: 10, margin: 0.2}.

    Raises:
        ValueError: the loss or one of its arguments is unknown or refused.
    """
    where = f"the loss {title!r}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {entry!r}: give a mapping, such as {{loss: arcface, scale: 30, margin: 0.2}}")
    known, name = presets(), entry.get("loss")
    options = {key: value for key, value in entry.items() if key not in OWN}
    for key in ("kappa", "settings", "quality"):
        if not isinstance(entry.get(key, {}), Mapping):
            raise ValueError(f"{key} of {where} is {entry[key]!r}: give a mapping")
    if name is not None and name not in known:
        raise ValueError(f"{where} is {name!r}, which is unknown: {suggestion(str(name), list(known))}")
    arguments = list(inspect.signature(known[name]).parameters) if name else []
    for key in options:
        if key not in arguments:
            raise ValueError(f"{where} has the key {key!r}: {suggestion(str(key), [*OWN, *arguments])}")
    loss = NamedLoss(
        title,
        name or "",
        options,
        entry.get("kappa"),
        entry.get("settings", {}),
        str(entry.get("recipe", "")),
    )
    if name:
        try:
            loss.build()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    return loss


def suggestion(name: str, known: list[str]) -> str:
    """What to write instead of an unknown name."""
    close = difflib.get_close_matches(name, known, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"There is {', '.join(known)}"
