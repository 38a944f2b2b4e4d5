"""KappaFace in train_v2.py: what ``config.kappa`` adds to the data loader, the network and the head of the script."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import verimargin as vm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .data_loader import follow
from .recordio import RecordReader, image_keys

SETTINGS = ("estimator", "temperature", "gamma", "warmup_epochs")
OF_ESTIMATOR = {"momentum": ("momentum",), "memory": ("memory_momentum", "memory_dtype", "memory_device")}


class KappaFace(torch.nn.Module):
    """The tracker and, for "momentum", the slow copy of the backbone; a part of `PartialFC` and of its state dict.

    Args:
        script: the running script, with its settings, backbone and data.
        embedding_size: d.
        num_classes: C, over all ranks.

    Attributes:
        tracker: a `vm.KappaTracker`, shared by all ranks.
        encoder: a `vm.MomentumEncoder`, which no optimiser trains, or None.
        fingerprint: (), a hash of the labels, in their order, and of the class names; a state dict with another
            fingerprint is refused.
    """

    fingerprint: Tensor

    def __init__(self, script: TrainingScript, embedding_size: int, num_classes: int):
        super().__init__()
        self.script = script
        counts = class_counts(script.labels, num_classes)
        options = {"num_samples": len(script.labels), "process_group": dist.group.WORLD}
        self.tracker, self.encoder = build(script.settings, counts, embedding_size, script.backbone, **options)
        self.register_buffer("fingerprint", torch.tensor(script.fingerprint))

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add the embeddings (B, d) and global class ids (B,) of the batch that the script took last."""
        if self.script.images is None:
            raise RuntimeError("the script took no batch from get_dataloader(), where config.kappa finds its images")
        if self.encoder is not None:
            self.encoder.follow(self.script.backbone)
            embeddings = self.encoder(self.script.images)
        self.tracker.update(embeddings.detach(), labels, self.script.sample_ids)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, unexpected: list, errors: list
    ) -> None:
        saved = state_dict.get(prefix + "fingerprint")
        if saved is not None and int(saved) != int(self.fingerprint):
            raise RuntimeError(  # at once, or torch would list each tensor that has another size
                "the training set's labels, or the names or the order of its classes, are not those of the saved run: "
                "resume with the data that the run began with, or start afresh"
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


class TrainingScript:
    """What is known about a running train_v2.py, from the functions that `replacements` puts into it.

    Attributes:
        settings: those of config.kappa.
        labels, fingerprint: of the training set, known once the data loader has been made.
        backbone: the network, without DistributedDataParallel around it.
        images, sample_ids: of the batch that the script took last; ids are positions in the training set.
        writer: the TensorBoard writer, on rank 0.
        kappa: the `KappaFace` of the head.
    """

    labels: np.ndarray
    fingerprint: int
    backbone: torch.nn.Module
    images: Tensor | None = None
    sample_ids: Tensor | None = None
    writer: Any = None
    kappa: KappaFace

    def __init__(self, settings: Mapping[str, Any], loss: vm.MarginLoss):
        self.settings, self.margin = check_settings(settings, loss), loss.margin

    def replacements(self, names: Mapping[str, Any]) -> dict[str, Callable]:
        """The functions that replace the script's get_dataloader, get_model and SummaryWriter."""
        get_dataloader, get_model, make_writer = (
            names[name] for name in ("get_dataloader", "get_model", "SummaryWriter")
        )

        def dataloader(*args: Any, **kwargs: Any) -> Iterable:
            given = inspect.signature(get_dataloader).bind(*args, **kwargs).arguments
            if given.get("dali") and self.settings["estimator"] == "memory":
                raise ValueError(
                    'config.kappa has estimator "memory", which has to identify each image, but DALI does not number '
                    'them: set config.dali = False, or estimator = "momentum"'
                )
            loader = get_dataloader(*args, **kwargs)
            self.labels, self.fingerprint = training_labels(given["root_dir"], loader)
            return self.observe(loader)

        def model(*args: Any, **kwargs: Any) -> torch.nn.Module:
            self.backbone = get_model(*args, **kwargs)
            return self.backbone

        def writer(*args: Any, **kwargs: Any) -> Any:
            self.writer = make_writer(*args, **kwargs)
            return self.writer

        return {"get_dataloader": dataloader, "get_model": model, "SummaryWriter": writer}

    def observe(self, loader: Any) -> Any:
        """The same loader, changed so that this object sees each of its batches and the end of each epoch."""
        numbered = isinstance(loader, DataLoader)
        if numbered:  # not by assignment, which a DataLoader refuses; the length and the order do not change
            vars(loader)["dataset"] = Numbered(loader.dataset)

        def seen(batch: Any) -> tuple[Tensor, Tensor]:
            images, labels, *ids = batch
            self.images, self.sample_ids = images, ids[0] if numbered else None
            return images, labels

        return follow(loader, self.end_epoch, seen)

    def end_epoch(self) -> None:
        """Compute the new margins, and write statistics of them to upstream's log and to TensorBoard."""
        tracker = self.kappa.tracker
        tracker.end_epoch()
        if dist.get_rank() != 0:
            return
        epoch, line = int(tracker.epoch), []
        for name, values in (("kappa", tracker.kappa), ("margin", tracker.psi * self.margin.m)):
            for kind, value in (("mean", values.mean()), ("min", values.min()), ("max", values.max())):
                line.append(f"{name} {kind} {float(value):.4g}")
                if self.writer is not None:
                    self.writer.add_scalar(f"{name}/{kind}", float(value), epoch)
        logging.info("KappaFace after epoch %d: %s", epoch, ", ".join(line))  # the root logger writes training.log


class Numbered(Dataset):
    """A data set that appends to each item its position."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple:
        return (*self.dataset[index], index)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def check_settings(settings: Mapping[str, Any], loss: vm.MarginLoss) -> dict[str, Any]:
    """The settings in config.kappa, with the default estimator filled in; wrong ones raise a ValueError."""
    if not isinstance(settings, Mapping):
        raise ValueError(f'config.kappa is {settings!r}: give a dict, such as dict(estimator="momentum")')
    settings = {"estimator": "momentum", **settings}
    known = (*SETTINGS, *OF_ESTIMATOR.get(settings["estimator"], ()))
    for name in settings:
        if name not in known and settings["estimator"] in OF_ESTIMATOR:
            raise ValueError(
                f"config.kappa has {name!r}: with estimator {settings['estimator']!r} it may have {', '.join(known)}"
            )
    if loss.margin.m == 0.0:
        raise ValueError(
            f"config.kappa has no margin to adapt: {loss.margin} of config.loss has m = 0; give it a larger m"
        )
    build(settings, torch.ones(1, dtype=torch.long), 1, torch.nn.Identity(), num_samples=1)  # refuses bad values
    return settings


def build(
    settings: Mapping[str, Any], counts: Tensor, embedding_size: int, backbone: torch.nn.Module, **options: Any
) -> tuple[vm.KappaTracker, vm.MomentumEncoder | None]:
    """The tracker for the settings and, for "momentum", the momentum encoder."""
    settings = dict(settings)
    share = {"momentum": settings.pop("momentum")} if "momentum" in settings else {}
    if settings["estimator"] == "momentum":
        options.pop("num_samples")
    tracker = vm.KappaTracker(counts, embedding_size, **settings, **options)
    return tracker, vm.MomentumEncoder(backbone, **share) if settings["estimator"] == "momentum" else None


def training_labels(rec: str, loader: Any) -> tuple[np.ndarray, int]:
    """The label of each training image in the order of the loader, and a hash that identifies the training set."""
    names: list[str] = []
    if os.path.exists(os.path.join(rec, "train.rec")):
        with RecordReader(os.path.join(rec, "train.idx"), os.path.join(rec, "train.rec")) as records:
            labels = records.labels(image_keys(records), progress=dist.get_rank() == 0)
    else:
        labels, names = np.array(loader.dataset.targets, dtype=np.int64), loader.dataset.classes
    digest = hashlib.sha256(labels.tobytes() + "\0".join(names).encode()).digest()
    return labels, int.from_bytes(digest[:8], "little", signed=True)


def class_counts(labels: np.ndarray, num_classes: int) -> Tensor:
    """The number of images of each class, (C,).

    Raises:
        ValueError: a label is outside 0..num_classes - 1, or a class has no image.
    """
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(
            f"the training set has the label {outside[0]}, config.num_classes is {num_classes}: "
            + (f"set it to {labels.max() + 1}" if outside[0] >= num_classes else "labels are numbered from 0")
        )
    counts = np.bincount(labels, minlength=num_classes)
    empty = (counts == 0).nonzero()[0]
    if len(empty):
        raise ValueError(
            f"{len(empty)} of config.num_classes = {num_classes} classes have no image, the first is class {empty[0]}; "
            "config.kappa needs at least one image of each: set config.num_classes to the number of classes in the "
            "data, and number the labels without gaps"
        )
    return torch.as_tensor(counts)
