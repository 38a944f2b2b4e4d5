"""Trains a small network on drawn faces with arcface_torch's shapes and our head, and embeds images with it.

What a step does is what train_v2.py does: RGB in [-1, 1], mirrored at random, a backbone (B, 3, 112, 112) -> (B, d), a
PartialFC head, SGD with momentum and a learning rate that falls to 0. An interrupted run goes on after its last whole
epoch.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import verimargin as vm
from torch import Tensor, nn
from verimargin.files.reading import read_tensors
from verimargin.files.whole import whole

from ..kappa import TrainingScript
from ..partial_fc import PartialFC
from .corpus import Faces

Progress = Callable[..., Iterable]


@dataclass(frozen=True)
class Recipe:
    """What all losses share. `channels` are those of the network's three stages."""

    epochs: int = 8
    batch_size: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4
    embedding_size: int = 128
    channels: tuple[int, int, int] = (16, 32, 64)


@dataclass(frozen=True)
class Loss:
    title: str
    make: Callable[[int], vm.MarginLoss]  # for a number of classes
    kappa: dict[str, Any] = field(default_factory=dict)  # config.kappa; empty if all classes have one margin


def _adaptive_q_margin(classes: int) -> vm.MarginLoss:
    return vm.MarginLoss(vm.QMargin(0.4, psi=torch.ones(classes)), 1.5, scale=10)


LOSSES = {
    "arcface": Loss("ArcFace (s 30, m 0.3)", lambda classes: vm.arcface(30, 0.3)),
    "qmargin": Loss("Q-Margin (alpha 1.5, s 10, m 0.2)", lambda classes: vm.q_margin(1.5, 10, 0.2)),
    "kappaface": Loss(
        "KappaFace (s 30, m0 0.6)", lambda classes: vm.kappaface(classes, 30, 0.6), {"estimator": "memory"}
    ),
    "adaptive": Loss("adaptive Q-Margin (alpha 1.5, s 10, m0 0.4)", _adaptive_q_margin, {"estimator": "memory"}),
}


class SmallNet(nn.Sequential):
    """A backbone (B, 3, 112, 112) -> (B, d), some 7 million multiply-adds for an image."""

    def __init__(self, channels: tuple[int, int, int], embedding_size: int):
        a, b, c = channels
        super().__init__(
            _convolution(3, a, 5, 4), _convolution(a, b, 3, 2), _convolution(b, b), _convolution(b, c, 3, 2),
            _convolution(c, c), nn.Flatten(), nn.Linear(c * 7 * 7, embedding_size), nn.BatchNorm1d(embedding_size),
        )  # fmt: skip


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.PReLU(outputs))


class Run:
    """One training: its network, its head and its optimiser, and the folder of its checkpoint.

    Attributes:
        step_seconds: CPU time, of the last epoch that this process has trained.
    """

    step_seconds = math.nan

    def __init__(self, folder: Path, faces: Faces, loss: Loss, recipe: Recipe, seed: int):
        self.faces, self.recipe, self.seed, self.path = faces, recipe, seed, folder / "checkpoint.pt"
        torch.manual_seed(seed)
        classes = len(faces.names)
        self.backbone = SmallNet(recipe.channels, recipe.embedding_size)
        margin_loss = loss.make(classes)
        self.script = self._script(loss, margin_loss) if loss.kappa else None
        self.head = PartialFC(margin_loss, recipe.embedding_size, classes, script=self.script)
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, recipe.lr, 0.9, weight_decay=recipe.weight_decay)
        self.steps = len(faces.labels) // recipe.batch_size
        self.epoch = 0

    def resume(self) -> int:
        """Go on from the checkpoint, if there is one; the number of epochs that are done."""
        if self.path.exists():
            saved = read_tensors(self.path, "a checkpoint of the demo")
            self.backbone.load_state_dict(saved["backbone"])
            self.head.load_state_dict(saved["head"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.epoch = saved["epoch"]
        return self.epoch

    def train(self, progress: Progress) -> None:
        """Train to the last epoch, and save a checkpoint after each. `progress` wraps the batches of an epoch."""
        self.backbone.train()
        while self.epoch < self.recipe.epochs:
            random = np.random.default_rng([self.seed, self.epoch])
            order = random.permutation(len(self.faces.labels))[: self.steps * self.recipe.batch_size]
            batches = np.split(order, self.steps)
            title, began = f"epoch {self.epoch + 1} of {self.recipe.epochs}", time.process_time()
            for step, batch in enumerate(progress(batches, title=title)):
                self._step(self.epoch * self.steps + step, batch, random)
            self.step_seconds = (time.process_time() - began) / max(self.steps, 1)
            if self.script is not None:
                self.script.end_epoch()
            self.epoch += 1
            self._save()

    def batch(self, positions: np.ndarray) -> Tensor:
        """The images with these positions, as the head's KappaFace expects to have seen them."""
        images = as_input(self.faces.images[positions])
        if self.script is not None:
            self.script.images, self.script.sample_ids = images, torch.from_numpy(positions)
        return images

    def _step(self, step: int, batch: np.ndarray, random: np.random.Generator) -> None:
        images = self.batch(batch)
        mirrored = torch.from_numpy(random.random(len(batch)) < 0.5)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
        if self.script is not None:
            self.script.images = images
        done = step / (self.steps * self.recipe.epochs)
        self.optimizer.param_groups[0]["lr"] = self.recipe.lr * min(1.0, 10 * done + 0.01) * (1 - done)
        loss = self.head(self.backbone(images), torch.from_numpy(self.faces.labels[batch]))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.backbone.parameters(), 5)
        self.optimizer.step()

    def _script(self, loss: Loss, margin_loss: vm.MarginLoss) -> TrainingScript:
        script = TrainingScript(loss.kappa, margin_loss)
        script.labels, script.fingerprint, script.backbone = self.faces.labels, self.seed, self.backbone
        return script

    def _save(self) -> None:
        parts = ("backbone", "head", "optimizer")
        state = {part: getattr(self, part).state_dict() for part in parts}
        self.path.parent.mkdir(exist_ok=True)
        with whole(self.path) as partial:
            torch.save({**state, "epoch": self.epoch}, partial)


@torch.no_grad()
def embed(backbone: nn.Module, images: np.ndarray) -> Tensor:
    """The embeddings (N, d) of images (N, 112, 112, 3)."""
    backbone.eval()
    parts = np.array_split(images, -(-len(images) // 256))
    return torch.cat([backbone(as_input(part)) for part in parts])


def as_input(images: np.ndarray) -> Tensor:
    """RGB images (B, 112, 112, 3), 0..255, as arcface_torch's networks take them: (B, 3, 112, 112) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone, which `PartialFC` needs."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
