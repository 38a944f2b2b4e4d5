"""A training run of `low_far.py`: a small network and its head, resumed where it was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import verimargin as vm
from identities import INPUTS, training_set
from low_far_losses import FAMILIES, Setting, loss_of
from tqdm import tqdm
from verimargin.files.whole import whole

EMBEDDING, HIDDEN = 64, 384
LEARNING_RATE = 2e-3
WARM_UP = 0.05  # of the steps
DENSE_CLASSES = 20_000  # with more of them a softmax is computed over a share, as Partial FC does
SAMPLE_RATE = 0.1
SECONDS = 60.0  # between checkpoints


class Job(NamedTuple):
    """What is trained; equal jobs give equal networks on one machine."""

    family: str
    setting: Setting
    classes: int
    epochs: int
    batch: int
    seed: int

    @property
    def name(self) -> str:
        """A name for files."""
        numbers = [f"{name}{value:g}" for name, value in self.setting.items()]
        sizes = (f"{self.classes}classes", f"{self.epochs}epochs", f"batch{self.batch}", f"seed{self.seed}")
        return "-".join([self.family.replace(" ", "_"), *numbers, *sizes])

    @property
    def sample_rate(self) -> float:
        return SAMPLE_RATE if self.setting.get("alpha", 1.0) == 1.0 and self.classes > DENSE_CLASSES else 1.0


class Run:
    """A job in progress."""

    def __init__(self, job: Job):
        torch.manual_seed(job.seed)
        self.job, self.data = job, training_set(job.classes)
        self.network = network()
        self.tracker = None
        if FAMILIES[job.family].adaptive:
            counts, samples = torch.from_numpy(np.bincount(self.data.label)), len(self.data.label)
            self.tracker = vm.KappaTracker(
                counts, EMBEDDING, estimator="memory", num_samples=samples, memory_dtype=torch.float16
            )
        loss = loss_of(job.family, job.setting, None if self.tracker is None else self.tracker.psi)
        self.head = vm.PrototypeHead(EMBEDDING, job.classes, loss, job.sample_rate)
        parameters = [*self.network.parameters(), *self.head.parameters()]
        # Adam, because its step does not depend on the size of the gradient, which differs with the scale of the loss
        self.optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
        self.done, self.cpu_seconds = 0, 0.0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.label) // self.job.batch

    @property
    def steps(self) -> int:
        return self.job.epochs * self.steps_per_epoch

    def step(self, index: np.ndarray) -> None:
        """One step with these training samples."""
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * self.learning_rate_factor()
        label = torch.from_numpy(self.data.label[index])
        embeddings = self.network(self.data.inputs(index))
        self.optimizer.zero_grad()
        self.head(embeddings, label).backward()
        self.optimizer.step()
        self.done += 1
        if self.tracker is not None:
            self.tracker.update(embeddings.detach(), label, torch.from_numpy(index))
            if self.done % self.steps_per_epoch == 0:
                self.tracker.end_epoch()

    def learning_rate_factor(self) -> float:
        """A linear warm-up, and half a period of a cosine."""
        share = self.done / self.steps
        return min(1.0, (share + 1.0 / self.steps) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * share))

    def batches(self) -> Iterator[np.ndarray]:
        """The samples of the steps that are left."""
        while self.done < self.steps:
            epoch, first = divmod(self.done, self.steps_per_epoch)
            order = np.random.default_rng([self.job.seed, epoch]).permutation(len(self.data.label))
            for step in range(first, self.steps_per_epoch):
                yield order[step * self.job.batch : (step + 1) * self.job.batch]

    def train(self, checkpoint: Path) -> None:
        """Train to the end, from the checkpoint if there is one; it is written every minute, and at the end."""
        if checkpoint.exists():
            self.load_state_dict(torch.load(checkpoint, weights_only=True))
        saved, started = time.monotonic(), time.process_time()
        with tqdm(total=self.steps, initial=self.done, desc=self.job.name, mininterval=1.0) as bar:
            for index in self.batches():
                self.step(index)
                bar.update()
                if time.monotonic() - saved > SECONDS or self.done == self.steps:
                    self.cpu_seconds += time.process_time() - started
                    started = time.process_time()
                    with whole(checkpoint) as path:
                        torch.save(self.state_dict(), path)
                    saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        last_step = {"active_classes": self.head.active_classes, "zero_loss": self.head.zero_loss}
        return {
            **state,
            **last_step,
            "done": self.done,
            "cpu_seconds": self.cpu_seconds,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.head.active_classes, self.head.zero_loss = state["active_classes"], state["zero_loss"]
        self.done, self.cpu_seconds = state["done"], state["cpu_seconds"]
        torch.set_rng_state(state["random"])

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "head": self.head, "optimizer": self.optimizer, "tracker": self.tracker}
        return {name: part for name, part in parts.items() if part is not None}


def network() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for size, next_size in ((INPUTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, EMBEDDING)):
        layers += [torch.nn.Linear(size, next_size, bias=False), torch.nn.BatchNorm1d(next_size), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])
