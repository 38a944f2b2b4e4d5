"""How `verimargin compare` trains with SpeechBrain's train_speaker_embeddings.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verimargin.commands.comparison.experiment import Experiment
from verimargin.commands.comparison.losses import NamedLoss, suggestion
from verimargin.commands.comparison.toolkit import Step, check_number, positive_integer, refused
from verimargin.files.reading import read_text
from verimargin.files.trials import read_trials
from verimargin.files.whole import whole

from ..corpus import check_classes, check_left_out, check_trials, speaker_of, speakers

SCRIPT = "train_speaker_embeddings.py"
CLASSES = "out_n_neurons"
WHOLE = "number_of_epochs", "batch_size"
RECIPES = Path("recipes", "VoxCeleb", "SpeakerRec")
OURS = {
    "seed": "seeds",
    "output_folder": "out",
    "data_folder": "data",
    "verification_file": "trials",
    "device": "devices",
}  # keys of the recipe that the experiment file has under another name
COPY = "in a copy of the recipe, and name the copy as `recipe`"
ELSEWHERE = {
    "subcenters": f"give it to PrototypeClassifier, as in train_ecapa_sparse.yaml, {COPY}",
    "screening": f"give it to PrototypeClassifier, as in train_ecapa_sparse.yaml, {COPY}",
    "schedule": f"add a MarginSchedule, as in train_ecapa_small_finetune.yaml, {COPY}",
    "pretrained": f"call start_from, as in train_ecapa_small_finetune.yaml, {COPY}",
}  # what arcface_torch has as settings, and a recipe says otherwise


class SpeechBrain:
    """See `verimargin.commands.comparison.toolkit.Toolkit`."""

    def check(self, experiment: Experiment) -> None:
        script_of(experiment.home)
        with refused("test_data" if experiment.test_data else "data"):
            tested = check_trials(str(experiment.test_data or experiment.data), str(experiment.trials))
        with refused("trials"):
            read_trials(experiment.trials, tested)
        for loss in experiment.losses:
            recipe = experiment.recipe_of(loss)
            keys = keys_of(recipe)
            usual = numbers_in(recipe)
            for key, value in experiment.settings_of(loss).items():
                if key in OURS:
                    raise ValueError(f"settings have {key!r}: give it as `{OURS[key]}` of the experiment")
                if key in ELSEWHERE and key not in keys:
                    raise ValueError(f"{recipe.name} has no key {key!r}: {ELSEWHERE[key]}")
                if key not in keys and key not in run_options():
                    raise ValueError(f"{recipe.name} has no key {key!r}: {suggestion(key, sorted(keys))}")
                check_number(key, value, usual.get(key))
                if key in WHOLE and not isinstance(value, str):  # a text is a reference to another key
                    positive_integer(key, value)
            check_loss(loss, keys)
        check_data(experiment, tested)

    def with_loss(self, experiment: Experiment, loss: NamedLoss) -> str:
        text = read_text(experiment.recipe_of(loss))
        text = with_cost(text, loss) if loss.function else text
        for key, value in loss.settings.items():
            text = with_setting(text, key, value)
        return text

    def training(
        self, experiment: Experiment, loss: NamedLoss, seed: int, devices: Sequence[str], folder: Path
    ) -> Step:
        recipe = experiment.recipe_of(loss)
        text = read_text(recipe)
        with whole(folder / recipe.name) as partial:
            partial.write_text(with_cost(text, loss) if loss.function else text, encoding="utf-8")
        values: dict[str, Any] = {
            "data_folder": str(experiment.data),
            "output_folder": str(folder / "train"),
            "seed": seed,
        }
        if "verification_file" in keys_of(recipe):
            values["verification_file"] = str(experiment.trials)
        values |= experiment.settings_of(loss)
        options = {"noprogressbar": True, **device_options(devices)}
        command = [sys.executable]
        if len(devices) > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(devices)}"]
        command += [str(script_of(experiment.home)), recipe.name]
        return Step("train", [*command, *arguments(values), *arguments(options)], folder)


def script_of(home: Path) -> Path:
    """The training script of a checkout, of which `home` is the root or the folder of the script."""
    for folder in (home / RECIPES, home):
        if (folder / SCRIPT).is_file():
            return folder / SCRIPT
    raise ValueError(f"{home} has no {RECIPES / SCRIPT}: give a checkout of SpeechBrain as home")


def keys_of(recipe: Path) -> set[str]:
    """The keys of a recipe, without what they stand for."""
    import yaml

    try:
        node = yaml.compose(read_text(recipe), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{recipe} has no keys: give a recipe of {SCRIPT}")
    return {key.value for key, _ in node.value}


def numbers_in(recipe: Path) -> dict[str, float]:
    """The keys of a recipe that stand for numbers."""
    import yaml

    node = yaml.compose(read_text(recipe), Loader=yaml.SafeLoader)
    return {
        key.value: yaml.safe_load(value.value)
        for key, value in node.value
        if value.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    }


def run_options() -> set[str]:
    """The options of SpeechBrain's scripts besides the keys of a recipe, such as precision."""
    from speechbrain.core import RunOptions

    return set(RunOptions().as_dict())


def check_loss(loss: NamedLoss, keys: set[str]) -> None:
    """Refuse what only a recipe that is written for it can train."""
    if loss.kappa is not None:
        raise ValueError(
            f"the loss {loss.title!r} has kappa, which is for arcface_torch: give it the recipe "
            "train_ecapa_small_kappaface.yaml, or one like it, instead"
        )
    if not loss.function:
        return
    if "compute_cost" not in keys:
        raise ValueError(
            f"the loss {loss.title!r}: its recipe has no compute_cost to replace; give it a recipe of {SCRIPT}"
        )
    margin = loss.build().margin
    if margin.psi is not None or getattr(margin, "quality", None) is not None:
        raise ValueError(
            f"the loss {loss.title!r} has a margin for each class or sample, which its recipe has to feed and to save: "
            "give it a recipe instead, such as train_ecapa_small_kappaface.yaml or train_ecapa_small_quality.yaml"
        )


def check_data(experiment: Experiment, tested: Sequence[str]) -> None:
    """Refuse a training set that a run would refuse: without speakers to train, or with more than the recipes' classes,
    or with speakers of the trials that would be trained on.

    Args:
        tested: the recordings in the trials, whose speakers are left out of training.
    """
    data = str(experiment.data)
    with refused("data"):
        trained = speakers(data, map(speaker_of, tested))
        check_left_out(data, str(experiment.trials))
    classes = {classes_of(experiment, loss): None for loss in experiment.losses}
    for number in classes:
        if number is not None:
            with refused("data"):
                check_classes(data, len(trained), number)


def classes_of(experiment: Experiment, loss: NamedLoss) -> int | None:
    """The number of classes that a loss is trained with; None where the recipe computes it."""
    import yaml

    settings = experiment.settings_of(loss)
    if CLASSES in settings:
        return positive_integer(CLASSES, settings[CLASSES])
    nodes = yaml.compose(read_text(experiment.recipe_of(loss)), Loader=yaml.SafeLoader).value
    found = [value.value for key, value in nodes if key.value == CLASSES]
    return int(found[0]) if found and isinstance(found[0], str) and found[0].isdecimal() else None


def with_cost(recipe: str, loss: NamedLoss) -> str:
    """The text of a recipe with the loss as its compute_cost.

    An override on the command line cannot do this: it keeps what the recipe has there, and adds to it.
    """
    made = f"!apply:verimargin.{loss.function} {json.dumps(dict(loss.options))}"
    line = f"compute_cost: !new:verimargin_speechbrain.MarginCost {{loss: {made}}}\n"
    changed = with_line(recipe, "compute_cost", line)
    if changed is None:
        raise ValueError(f"the recipe has no compute_cost: give one of {SCRIPT}")
    return changed


def with_setting(recipe: str, key: str, value: Any) -> str:
    """The text of a recipe with a value of a key. Of a mapping, as of an override, only the given keys are changed."""
    if isinstance(value, Mapping):
        return f"{recipe}\n{key}: {option(value)} # these keys of it; it keeps the others\n"
    line = f"{key}: {option(value)}\n"
    return with_line(recipe, key, line) or f"{recipe}\n{line}"


def with_line(recipe: str, key: str, line: str) -> str | None:
    """The text of a recipe with a line in the place of a key and its value; None if it has no such key."""
    import yaml

    for node, value in yaml.compose(recipe, Loader=yaml.SafeLoader).value:
        if node.value == key:
            rest = recipe[value.end_mark.index :]
            return recipe[: node.start_mark.index] + (line.rstrip("\n") if rest[:1] in " \n" else line) + rest
    return None


def device_options(devices: Sequence[str]) -> dict[str, Any]:
    if devices[0] == "cpu":
        return {"device": "cpu", **({"distributed_backend": "gloo"} if len(devices) > 1 else {})}
    return {"device": devices[0]} if len(devices) == 1 else {}  # several ranks each find their own


def arguments(values: Mapping[str, Any]) -> list[str]:
    """The values as options of a SpeechBrain script; what is True stands for itself among its flags."""
    texts = []
    for key, value in values.items():
        texts.append(f"--{key}")
        if key == "noprogressbar":
            continue
        texts.append(option(value))
    return texts


def option(value: Any) -> str:
    """A value as on the command line of a SpeechBrain script, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


TOOLKIT = SpeechBrain()
