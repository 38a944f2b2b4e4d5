"""How `verimargin compare` trains with arcface_torch's train_v2.py."""

from __future__ import annotations

import ast
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verimargin.commands.comparison.experiment import Experiment
from verimargin.commands.comparison.losses import NamedLoss, suggestion
from verimargin.commands.comparison.toolkit import Step, check_number, positive_integer, refused
from verimargin.files.reading import read_text
from verimargin.files.trials import read_trials
from verimargin.files.whole import whole

from .. import config_check
from ..experiment_config import config_file
from ..face_trials import open_face_trials
from ..kappa import check_settings
from ..registration import REQUIRED, check_data
from .edited_config import edited

logger = logging.getLogger(__name__)

SCRIPT, BASE, NAME = "train_v2.py", Path("configs", "base.py"), "compared"
OURS = {
    "seed": "seeds",
    "output": "out",
    "rec": "data",
    "loss": "losses",
    "kappa": "losses",
}  # settings that the experiment file has under another name
RESUMES = ("resume", "save_all_states")
PYTHON = ("schedule", "pretrained")  # settings of ours that need a config file
SIZES = "num_classes", "num_image"
WHOLE = *SIZES, "num_epoch", "batch_size"
ALSO = "screening", "subcenters", *REQUIRED  # not in BASE


class ArcFaceTorch:
    """See `verimargin.commands.comparison.toolkit.Toolkit`."""

    def check(self, experiment: Experiment) -> None:
        home = folder_of(experiment.home)
        check_trials(experiment)
        for loss in experiment.losses:
            recipe = experiment.recipe_of(loss)
            known = sorted({*names_in(home / BASE), *names_in(recipe), *ALSO})
            usual = {**constants_in(home / BASE), **constants_in(recipe)}
            for key, value in experiment.settings_of(loss).items():
                check_setting(key, loss, recipe, known)
                check_number(key, value, usual.get(key))
                if key in WHOLE:
                    positive_integer(key, value)
            if loss.function and loss.build().margin.psi is not None and loss.kappa is None:
                raise ValueError(
                    f"the loss {loss.title!r} has a margin for each class, which nothing would change: add kappa, such "
                    "as {estimator: momentum}"
                )
            if loss.kappa is not None:
                if not loss.function:
                    raise ValueError(f"the loss {loss.title!r} has kappa and no loss: name the loss that it belongs to")
                with refused(f"kappa of {loss.title!r}"):
                    check_settings(loss.kappa, loss.build())
            check_complete(experiment, loss, home / BASE)
        for classes, images in {sizes_of(experiment, loss): None for loss in experiment.losses}:
            if classes is not None:
                with refused("data"):
                    check_data(str(experiment.data), classes, images)

    def with_loss(self, experiment: Experiment, loss: NamedLoss) -> str:
        return edited(read_text(experiment.recipe_of(loss)), loss)

    def training(
        self, experiment: Experiment, loss: NamedLoss, seed: int, devices: Sequence[str], folder: Path
    ) -> Step:
        checkout = mirror(folder_of(experiment.home), folder / "checkout")
        changes = {
            "settings": {**experiment.settings_of(loss), "rec": str(experiment.data), "seed": seed},
            "loss": loss.function,
            "options": dict(loss.options),
            "kappa": loss.kappa,
            "output": str(folder / "train"),
        }
        with whole(checkout / "configs" / f"{NAME}.py") as partial:
            partial.write_text(config_file(experiment.recipe_of(loss), changes), encoding="utf-8")
        ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(devices)}"]
        script = ["-m", "verimargin_insightface", SCRIPT, f"configs/{NAME}.py"]
        return Step("train", [sys.executable, *ranks, *script], checkout)


def folder_of(home: Path) -> Path:
    """arcface_torch's folder, of which `home` is the checkout or the folder itself."""
    for folder in (home / "recognition" / "arcface_torch", home):
        if (folder / SCRIPT).is_file() and (folder / BASE).is_file():
            return folder.resolve()
    raise ValueError(f"{home} has no recognition/arcface_torch/{SCRIPT}: give a checkout of InsightFace as home")


def mirror(home: Path, folder: Path) -> Path:
    """A folder that looks like arcface_torch's, made of links, in whose configs/ a file can be written.

    train_v2.py takes configs from there only, and the user's checkout stays as it is.
    """
    shutil.rmtree(folder, ignore_errors=True)  # links are removed, not what they lead to
    (folder / "configs").mkdir(parents=True)
    for source, target in ((home, folder), (home / "configs", folder / "configs")):
        for entry in source.iterdir():
            if entry.name not in ("configs", "__pycache__", "work_dirs"):
                (target / entry.name).symlink_to(entry)
    return folder


def check_setting(key: str, loss: NamedLoss, recipe: Path, known: list[str]) -> None:
    """Refuse a setting that belongs to another place, and one that nothing would read."""
    if key in OURS:
        raise ValueError(f"settings have {key!r}: give it as `{OURS[key]}` of the experiment")
    if key in RESUMES:
        raise ValueError(f"settings have {key!r}: each run saves all states and is resumed; leave it out")
    if key in PYTHON:
        raise ValueError(
            f"settings have {key!r}: set config.{key} before register(config) in a copy of {recipe.name}, and name the "
            "copy as `recipe`, of the experiment or of a loss"
        )
    if key in config_check.OURS and not loss.function and is_whole(recipe) and "loss" not in names_in(recipe):
        raise ValueError(
            f"the loss {loss.title!r} is that of {recipe.name}, where nothing reads the setting {key!r}: give it to "
            "losses with a function of ours only, as their own `settings`"
        )
    if key not in known:
        raise ValueError(f"neither {recipe.name} nor {BASE} has {key!r}: {suggestion(key, known)}")


def check_complete(experiment: Experiment, loss: NamedLoss, base: Path) -> None:
    """Refuse a config without a setting that train_v2.py needs."""
    recipe = experiment.recipe_of(loss)
    if not is_whole(recipe):
        return
    known = {*names_in(base), *names_in(recipe), *experiment.settings_of(loss), *OURS}
    if missing := [name for name in REQUIRED if name not in known]:
        raise ValueError(f"{recipe.name} has no {', '.join(missing)}: give {missing[0]} under `settings`")


def is_whole(recipe: Path) -> bool:
    """Whether a config file makes its config, and does not take that of another file."""
    return bool(re.search(r"^config *=", read_text(recipe), re.MULTILINE))


def check_trials(experiment: Experiment) -> None:
    """Refuse a list that `verimargin evaluate` would refuse when all is trained."""
    tests = open_face_trials(experiment.trials, experiment.test_data, "test_data")
    if not tests.list_text:
        with refused("trials"):
            read_trials(experiment.trials, tests.ids)
    trained = {entry.name for entry in experiment.data.iterdir() if entry.is_dir()}
    shared = sorted(tests.identities & trained)
    if shared and trained <= tests.identities:
        raise ValueError(f"trials and data have the same identities, such as {shared[0]}: test on others")
    if shared:
        logger.warning(
            "%d identities of the trials, such as %s, are in the training data: the error rates will be lower than "
            "those of strangers",
            len(shared),
            shared[0],
        )


def sizes_of(experiment: Experiment, loss: NamedLoss) -> tuple[int | None, int | None]:
    """The numbers of classes and of images that a loss is trained with; None where the config computes them."""
    settings = experiment.settings_of(loss)
    found = {**constants_in(experiment.recipe_of(loss)), **settings}
    classes, images = (found[name] if isinstance(found.get(name), int) else None for name in SIZES)
    return classes, images


def constants_in(config: Path) -> dict[str, Any]:
    """The settings to which a config file assigns a constant."""
    return {
        name: value
        for node in ast.walk(ast.parse(read_text(config)))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for name, value in [(getattr(node.targets[0], "attr", ""), node.value.value)]
        if name
    }


def names_in(config: Path) -> set[str]:
    """The settings that a config file assigns."""
    try:
        return set(config_check.settings_of(ast.parse(read_text(config), str(config))))
    except SyntaxError as error:
        raise ValueError(f"{config} is no Python file: {error}") from error


TOOLKIT = ArcFaceTorch()
