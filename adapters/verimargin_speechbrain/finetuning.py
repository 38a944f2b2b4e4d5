"""A training that starts from the weights of a finished run, in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import Checkpoint, Checkpointer
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from verimargin.files.prototypes import read_prototypes

logger = get_logger(__name__)

ENCODER = "label_encoder.txt"


def start_from(
    folder: str | Path,
    save_folder: str | Path,
    parts: dict[str, torch.nn.Module],
    classifier: torch.nn.Module | None = None,
    prototypes: str | Path | None = None,
) -> None:
    """Load the weights of a finished run before the script trains; for a recipe, as `__start: !apply:`.

    The epochs, the optimiser and the learning rate begin anew, and so do the margin and the loss. Once this run has a
    checkpoint of its own, it resumes that one, and nothing is loaded from the finished run.

    Args:
        folder: the `save_folder` of the finished run, of which the checkpoint with the smallest ErrorRate is taken; or
            a folder `CKPT+...` in it.
        save_folder: that of this run.
        parts: `embedding_model` and others, by the names that they have among the finished run's recoverables.
        classifier: a classifier that inherits the prototypes; each speaker keeps the number in the finished run's label
            encoder, which is copied. Without it, the prototypes are new.
        prototypes: the prototypes.pt that `verimargin prune` made of the finished run, which had sub-centres: the
            classifier gets these, one for each speaker.

    Raises:
        ValueError: there is no such checkpoint, it lacks a part, a part or the number of speakers does not fit, or
            there are prototypes and no classifier.
    """
    if prototypes is not None and classifier is None:
        raise ValueError(f"there is no classifier to get the prototypes of {prototypes}: give `classifier` too")
    folder, save_folder = Path(folder), Path(save_folder)
    if any(save_folder.glob("CKPT+*")):
        logger.info("%s has a checkpoint: it is resumed, and nothing is loaded from %s", save_folder, folder)
        return
    checkpoint = _best_checkpoint(folder)
    inherits = classifier is not None and prototypes is None
    wanted = [*parts, "classifier"] if inherits else [*parts]
    if missing := [name for name in wanted if name not in checkpoint.paramfiles]:
        raise ValueError(
            f"{checkpoint.path} has no {missing[0]}.ckpt: it has {', '.join(sorted(checkpoint.paramfiles))}; give the "
            "checkpoint of a run that saved it"
        )
    try:
        Checkpointer(checkpoint.path.parent, parts).load_checkpoint(checkpoint)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint.path} does not fit the recipe's model: {error}") from error
    if classifier is not None:
        _inherit_prototypes(classifier, Path(prototypes or checkpoint.paramfiles["classifier"]))
        run_on_main(_copy_encoder, [checkpoint.path.parent / ENCODER, save_folder / ENCODER])
    # as a warning, because the script shows no others before it has made the folder of the experiment
    found = "new" if classifier is None else "its" if prototypes is None else "pruned"
    logger.warning("the training starts from %s, with %s prototypes", checkpoint.path, found)


def _best_checkpoint(folder: Path) -> Checkpoint:
    run = folder.parent if (folder / "CKPT.yaml").is_file() else folder
    found = Checkpointer(run).find_checkpoints(min_key="ErrorRate") if any(run.glob("CKPT+*")) else []
    for checkpoint in found:
        if run == folder or checkpoint.path.resolve() == folder.resolve():
            return checkpoint
    raise ValueError(
        f"{folder} has no checkpoint to start from: give the save_folder of a finished run, which holds folders "
        "CKPT+..., or one of those"
    )


def _inherit_prototypes(classifier: torch.nn.Module, path: Path) -> None:
    weight = classifier.get_parameter("weight")
    if not path.is_file():
        raise ValueError(f"{path} is not there: give the prototypes.pt of `verimargin prune`")
    saved = read_prototypes([path])
    if saved.dim() == 3 and weight.dim() == 2:
        raise ValueError(
            f"{path} has {saved.shape[1]} sub-centres for each speaker, and the recipe's classifier has none: give "
            "start_from the `prototypes` that `verimargin prune` leaves, or the classifier as many subcenters"
        )
    if saved.shape != weight.shape:
        raise ValueError(
            f"{path} has {len(saved)} speakers with prototypes of shape {tuple(saved.shape[1:])}, the recipe's "
            f"classifier {len(weight)} of shape {tuple(weight.shape[1:])}: set out_n_neurons to {len(saved)} with the "
            "same speakers, or start with new prototypes"
        )
    with torch.no_grad():
        weight.copy_(saved)


def _copy_encoder(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ValueError(
            f"{source} is missing, which says whose the prototypes are: copy it there from the finished run, or start "
            "with new prototypes"
        )
    if target.is_file():
        if target.read_bytes() != source.read_bytes():
            raise ValueError(
                f"{target} numbers the speakers in another way than {source}: give this run an --output_folder of its "
                "own"
            )
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
