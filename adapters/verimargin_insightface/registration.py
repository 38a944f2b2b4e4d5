"""`register`, which a config file calls at its end: it gives train_v2.py our head and the loss of the config."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import verimargin as vm
from verimargin.head.screening import check_screening

from .checkpointing import ScriptTorch
from .config_check import OURS
from .head_memory import log_head_memory
from .image_folder import count_images
from .kappa import TrainingScript
from .output_folder import prepare
from .partial_fc import PartialFC
from .pretrained import Pretrained
from .recordio import RecordReader, class_count, image_keys
from .schedule import ConfigSchedule
from .training_log import TrainingLog

logger = logging.getLogger(__name__)

REQUIRED = ("num_classes", "rec", "num_image", "num_epoch", "warmup_epoch", "val_targets")  # not in configs/base.py
CLOSE = 0.01  # a share of the images by which num_image may be wrong


def register(config: Any) -> None:
    """Make the running train_v2.py use `PartialFC` with ``config.loss``. Call it last in a config file::

        config.loss = vm.q_margin(alpha=1.25, scale=32, margin=0.2)
        register(config)

    In the script's namespace, ``PartialFC_V2`` becomes `PartialFC`, and ``CombinedMarginLoss(...)`` returns
    ``config.loss``, so that `margin_list` has no effect. Its ``torch.save`` and ``torch.load`` leave a whole checkpoint
    at any moment, and open it on another number of ranks. No file of upstream is changed.

    With ``config.kappa``, a dict, the margin of each class is adapted once per epoch (KappaFace), for any margin::

        config.kappa = dict(estimator="momentum", momentum=0.999)    # or dict(estimator="memory")

    Its other keys are those of `vm.KappaTracker`: temperature, gamma, warmup_epochs and, for "memory",
    memory_momentum, memory_dtype and memory_device. ``config.screening`` and ``config.subcenters`` are those of
    `vm.PrototypeHead`.

    With ``config.schedule``, a dict, the margin and the scale of the loss change during training, by training steps or
    by finished epochs (`vm.Schedule`)::

        config.schedule = dict(margin=vm.Ramp(0.0, 0.5, start=0, end=3), unit="epochs")    # or scale=..., unit="steps"

    With ``config.pretrained`` the training starts from a finished run: a `model.pt` gives the backbone, and the folder
    of a run with ``config.save_all_states = True`` its prototypes too. In upstream's log and in TensorBoard there are
    the `vm.TrainingStatistics`, as often as upstream logs the loss.

    Args:
        config: the complete EasyDict of the config file. `rec` and `num_classes` are compared with the data.

    Raises:
        ValueError: ``config.loss`` is not a `verimargin.MarginLoss`, a setting is missing, or `rec` holds neither
            RecordIO nor an image folder, or more classes than `num_classes`. Later, when the script uses
            them: the network is unknown, or interclass_filtering_threshold is set, which our losses do not have.
            With config.kappa: a key is unknown or a value is wrong, the loss has no margin, or the data are synthetic;
            when the script opens the data: "memory" is used with DALI, or a class has no image. Without config.kappa:
            the loss is a KappaFace loss. config.screening is no known type. A key or a value of config.schedule is
            wrong. config.pretrained is not there, or does not fit. Before training: the output folder holds the run of
            another loss.
        RuntimeError: no train_v2.py is running, so that nothing would be replaced.
    """
    loss = config.get("loss")
    if not isinstance(loss, vm.MarginLoss):
        raise ValueError(f"config.loss is {loss!r}: give a verimargin.MarginLoss, e.g. vm.q_margin(1.25, 32, 0.2)")
    missing = [name for name in REQUIRED if config.get(name) is None]
    if missing:
        raise ValueError(f"the config has no {', '.join(missing)}: set config.{missing[0]} before register(config)")
    check_data(config.rec, config.num_classes, config.num_image)
    observed = _observed_script(config, loss)
    schedule = ConfigSchedule(config.schedule, loss) if config.get("schedule") is not None else None
    pretrained = Pretrained(config.pretrained) if config.get("pretrained") is not None else None
    seen_here = {name: config.get(name) for name in OURS}

    def margin_loss(
        s: float, m1: float, m2: float, m3: float, interclass_filtering_threshold: float = 0
    ) -> vm.MarginLoss:
        for name, seen in seen_here.items():
            if config.get(name) is not seen:
                raise ValueError(f"config.{name} was set after register(config), which did not see it: set it before")
        if interclass_filtering_threshold > 0:
            raise ValueError(
                f"config.interclass_filtering_threshold is {interclass_filtering_threshold}: it belongs to "
                "CombinedMarginLoss; set it to 0 with register(config)"
            )
        # here, because the script sets config.output and others after it has imported the config file
        prepare(config, loss)
        log_head_memory(config, loss)
        return loss

    script = _running_script()
    names = {**script.__dict__, "get_model": _get_model(script.__dict__["get_model"], pretrained)}
    log = TrainingLog()
    options = {
        "screening": check_screening(config.get("screening") or "auto"),
        "script": observed,
        "schedule": schedule,
        "subcenters": config.get("subcenters", 1),
    }
    ours = {
        "PartialFC_V2": partial(_head, log, pretrained, **options),
        "CombinedMarginLoss": margin_loss,
        "get_model": names["get_model"],
        "torch": ScriptTorch(config),
    }
    if observed is not None:
        ours |= observed.replacements(names)
    script.__dict__.update({**ours, **log.replacements({**names, **ours})})


def _head(log: TrainingLog, pretrained: Pretrained | None, *args: Any, **options: Any) -> PartialFC:
    """The head of the running script."""
    head = PartialFC(*args, **options)
    if pretrained is not None:
        pretrained.load_prototypes(head)
    log.head = head
    return head


def _observed_script(config: Any, loss: vm.MarginLoss) -> TrainingScript | None:
    """The object that observes the running script for config.kappa; None without config.kappa."""
    if config.get("kappa") is None:
        psi = loss.margin.psi
        if psi is not None and bool((psi == 1).all()):
            raise ValueError(
                "config.loss has a psi of 1 for each class, but nothing changes it: set config.kappa, e.g. "
                'dict(estimator="momentum")'
            )
        return None
    if config.rec == "synthetic":
        raise ValueError("config.kappa needs the classes of real data, but config.rec is 'synthetic': give a real set")
    return TrainingScript(config.kappa, loss)


def check_data(rec: str, num_classes: int, num_image: int | None = None) -> None:
    """Refuse a `rec` that upstream's get_dataloader cannot read, or that has more classes than the head; warn of other
    differences.
    """
    if rec == "synthetic":
        return
    has_rec, has_idx = (os.path.exists(os.path.join(rec, name)) for name in ("train.rec", "train.idx"))
    if has_rec != has_idx:
        present, absent = ("train.rec", "train.idx") if has_rec else ("train.idx", "train.rec")
        raise ValueError(f"{rec} has {present} without {absent}: give a folder with both")
    if has_rec:
        with RecordReader(os.path.join(rec, "train.idx"), os.path.join(rec, "train.rec")) as records:
            found, images = class_count(records), len(image_keys(records))
    else:
        found = sum(entry.is_dir() for entry in os.scandir(rec)) if os.path.isdir(rec) else 0
        if not found:
            raise ValueError(
                f"config.rec is {rec!r}, which holds neither train.rec and train.idx nor a folder for each class: "
                "give a RecordIO set, an image folder or 'synthetic'"
            )
        images = count_images(rec)
    if found > num_classes:
        raise ValueError(f"{rec} has {found} classes, config.num_classes is {num_classes}: set it to {found}")
    if 0 < found < num_classes:
        logger.warning(
            "config.num_classes is %d, and %s has %d classes: the other prototypes never get a sample of their own",
            num_classes,
            rec,
            found,
        )
    if num_image is not None and abs(num_image - images) > CLOSE * images:
        logger.warning(
            "config.num_image is %d, and %s has %d images: train_v2.py spreads the learning rate over num_image "
            "images per epoch, so it would fall too slowly or too fast; set it to their number",
            num_image,
            rec,
            images,
        )


def _running_script() -> ModuleType:
    for name in ("__main__", "train_v2"):
        script = sys.modules.get(name)
        if script is not None and hasattr(script, "PartialFC_V2"):
            return script
    raise RuntimeError(
        "no running train_v2.py has a PartialFC_V2 to replace: register(config) belongs at the end of a config file, "
        "which train_v2.py imports"
    )


def _get_model(get_model: Callable, pretrained: Pretrained | None) -> Callable:
    """get_model, except that the weights are those of config.pretrained, and that its bare ValueError() for an unknown
    network gets a message that names the network.
    """

    def model(name: str, **kwargs: Any) -> Any:
        try:
            backbone = get_model(name, **kwargs)
        except ValueError as error:
            if error.args:
                raise
            raise ValueError(f"config.network is {name!r}, which backbones.get_model does not know") from error
        return backbone if pretrained is None else pretrained.load_backbone(backbone)

    return model
