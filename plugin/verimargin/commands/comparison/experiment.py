"""The experiment file of `verimargin compare`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...files import hparams as recipes
from ...files.reading import read_text
from .losses import NamedLoss, read_loss, suggestion

REQUIRED = ("toolkit", "home", "recipe", "data", "trials", "out", "losses", "seeds")
OPTIONAL = ("test_data", "devices", "settings")
EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


@dataclass(frozen=True)
class Experiment:
    """An experiment file; its relative paths are relative to the folder of the file.

    Attributes:
        toolkit: "speechbrain" or "arcface_torch".
        home: the checkout of the toolkit.
        recipe: a recipe of `verimargin hparams`, or the path of one.
        data: the training set.
        trials: the trial list.
        out: the folder of the experiment.
        losses: what is compared.
        seeds: those that each loss is trained with.
        test_data: the folder of the samples in the trial list; None for where the toolkit looks for them.
        devices: those of each run that goes on at a time; several for one run are its ranks.
        settings: keys of the recipe, for all losses.
        folder: that of the file.
        text: the file.
    """

    toolkit: str
    home: Path
    recipe: str
    data: Path
    trials: Path
    out: Path
    losses: tuple[NamedLoss, ...]
    seeds: tuple[int, ...]
    test_data: Path | None
    devices: tuple[tuple[str, ...], ...]
    settings: Mapping[str, Any]
    folder: Path
    text: str

    def settings_of(self, loss: NamedLoss) -> dict[str, Any]:
        return {**self.settings, **loss.settings}

    def recipe_of(self, loss: NamedLoss | None) -> Path:
        """The path of the recipe that a loss is trained with; with None, of the experiment's own."""
        name = loss.recipe if loss and loss.recipe else self.recipe
        for place in (self.folder / Path(name).expanduser(), self.home / name):
            if place.is_file():
                return place
        return recipes.path(f"{self.toolkit}/{name}")

    def notes(self) -> list[str]:
        """What the reader should know: which losses are the same one under two titles."""
        trained: list[tuple[NamedLoss, Any]] = []
        told = []
        for loss in self.losses:
            mine = self.recipe_of(loss), loss.complete(), self.settings_of(loss)
            for other in [other for other, theirs in trained if theirs == mine][:1]:
                told.append(
                    f"{loss.title} and {other.title} are the same loss with the same settings. With the same seeds "
                    "they differ only where a device does not repeat its results; other seeds show what chance does."
                )
            trained.append((loss, mine))
        return told


def read_experiment(path: Path) -> Experiment:
    """The experiment in a YAML file.

    Raises:
        ValueError: it is no YAML, a key is missing or unknown, a value is none that the key can have, or a folder or
            file that it names does not exist.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: `verimargin hparams` lists experiments and copies one")
    text = read_text(path)
    given = _mapping(path, text)
    folder = path.resolve().parent

    def place(key: str) -> Path:
        if not isinstance(given[key], str) or not given[key]:
            raise ValueError(f"{key} in {path} is {given[key]!r}: give a path")
        return folder / Path(given[key]).expanduser()

    places = {key: place(key) for key in ("home", "data", "trials", "out", "test_data") if key in given}
    for key, found in places.items():
        if key == "trials" and not found.is_file():
            raise ValueError(f"trials in {path} is {found}, which is not a file: give a trial list")
        if key == "out" and found.exists() and not found.is_dir():
            raise ValueError(f"out in {path} is {found}, which is a file: give a folder")
        if key in ("home", "data", "test_data") and not found.is_dir():
            raise ValueError(f"{key} in {path} is {found}, which is not a folder")
    if not isinstance(given.get("settings", {}), Mapping):
        raise ValueError(f"settings in {path} is {given['settings']!r}: give a mapping of the recipe's keys")
    return Experiment(
        str(given["toolkit"]),
        places["home"],
        str(given["recipe"]),
        places["data"],
        places["trials"],
        places["out"],
        _losses(path, given["losses"]),
        _seeds(path, given["seeds"]),
        places.get("test_data"),
        tuple(_devices(path, given.get("devices", 1))),
        given.get("settings", {}),
        folder,
        text,
    )


def _mapping(path: Path, text: str) -> dict[str, Any]:
    import yaml

    try:
        _check_nodes(path, yaml.compose(text, yaml.SafeLoader))
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} has no keys: it needs {', '.join(REQUIRED)}")
    for key in given:
        if key not in REQUIRED + OPTIONAL:
            raise ValueError(f"{path} has the key {key!r}: {suggestion(str(key), [*REQUIRED, *OPTIONAL])}")
    if missing := [key for key in REQUIRED if given.get(key) is None]:
        raise ValueError(f"{path} has no {', '.join(missing)}: add what is missing")
    return given


def _check_nodes(path: Path, node: Any) -> None:
    """Refuse what YAML reads in silence as something else: a repeated key, and a number such as 1e-3 as text."""
    if node is None:
        return
    children = node.value if node.id == "sequence" else []
    if node.id == "mapping":
        keys = [key.value for key, _ in node.value]
        for n, (key, _) in enumerate(node.value):
            if key.value in keys[:n]:
                raise ValueError(f"line {key.start_mark.line + 1} of {path} has the key {key.value!r} a second time")
        children = [value for _, value in node.value]
    elif node.tag.endswith(":str") and node.style is None and EXPONENT.fullmatch(node.value):
        raise ValueError(
            f"line {node.start_mark.line + 1} of {path} has {node.value}, which YAML takes for text: "
            f"write {float(node.value)!r}"
        )
    for child in children:
        _check_nodes(path, child)


def _losses(path: Path, given: Any) -> tuple[NamedLoss, ...]:
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"losses in {path} is {given!r}: give a mapping from titles to losses")
    losses = tuple(read_loss(str(title), entry) for title, entry in given.items())
    folders = [folder_name(loss.title) for loss in losses]
    for folder, loss in zip(folders, losses):
        if not folder or folders.count(folder) > 1:
            raise ValueError(f"the loss {loss.title!r} would have the folder {folder!r}: give each a name of its own")
    return losses


def folder_name(title: str) -> str:
    """A title as the name of a folder.

    >>> folder_name("Q-Margin (alpha 1.5)")
    'Q-Margin_alpha_1.5'
    """
    return re.sub(r"[^\w.+-]+", "_", title).strip("_.")


def _seeds(path: Path, given: Any) -> tuple[int, ...]:
    numbers = isinstance(given, list) and all(type(seed) is int and seed >= 0 for seed in given)
    if not numbers or not given or len(set(given)) < len(given):
        raise ValueError(f"seeds in {path} is {given!r}: give a list of distinct integers >= 0, such as [1, 2, 3]")
    return tuple(given)


def _devices(path: Path, given: Any) -> Iterator[tuple[str, ...]]:
    """The devices of each run that goes on at a time; a number is one of runs on the CPU."""
    wrong = f"devices in {path} is {given!r}: give a number of runs on the CPU, or a list such as [cuda:0, cuda:1]"
    if type(given) is int and given >= 1:
        given = ["cpu"] * given
    if not isinstance(given, list) or not given:
        raise ValueError(wrong)
    for entry in given:
        ranks = tuple(entry) if isinstance(entry, list) else (entry,)
        for device in ranks:
            if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda:\d+", device):
                raise ValueError(wrong)
            if device != "cpu" and int(device[5:]) >= torch.cuda.device_count():
                raise ValueError(f"devices in {path} has {device}, but there are {torch.cuda.device_count()} GPUs")
        if not ranks or len({device == "cpu" for device in ranks}) > 1:
            raise ValueError(wrong)
        if len(ranks) != len(given[0] if isinstance(given[0], list) else given[:1]):
            raise ValueError(f"devices in {path} is {given!r}: give each run the same number of ranks, as it counts")
        yield ranks
