"""Time and memory of a head's step (forward and backward), as ratios to what it replaces.

    python benchmarks/head.py [--classes 100000] [--batch 128] [--size 512] [--rounds 15] [--csv FILE]

`PrototypeHead` with Q-Margin takes turns, within one process, with each of: a dense ArcFace head with the
arithmetic of Partial FC (`DenseArcFace` below); the single matrix product E W^T, the least that any exact
head has to compute; and, if ARCFACE_TORCH_HOME is the recognition/arcface_torch folder of a checkout, its
`PartialFC_V2`. The prototypes are those of a trained model, simulated as clusters of confusable classes, and then
freshly initialised ones. A ratio is the median of the ratios of all rounds.
Memory is the peak of a separate process, without the prototypes and their gradient.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import verimargin as vm
from torch.nn import functional as F

CONFUSABLE = 11  # classes in a cluster of the trained prototypes, including the target's own class


class DenseArcFace(torch.nn.Module):
    """ArcFace as Partial FC computes it in one process at sample_rate 1: with normalised copies of the embeddings and
    the prototypes, with arccos and cos of all clamped logits in place, and with a softmax in place.
    """

    def __init__(self, weight: torch.Tensor, scale: float = 64.0, margin: float = 0.5):
        super().__init__()
        self.weight, self.scale, self.margin = torch.nn.Parameter(weight), scale, margin

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = F.linear(F.normalize(embeddings), F.normalize(self.weight)).clamp(-1, 1)
        with torch.no_grad():
            logits.acos_()
            logits[torch.arange(len(labels)), labels] += self.margin
            logits.cos_()
        return SoftmaxCrossEntropy.apply(logits * self.scale, labels)


class SoftmaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits.sub_(logits.amax(1, keepdim=True)).exp_()
        logits.div_(logits.sum(1, keepdim=True))
        ctx.save_for_backward(logits, labels)
        return -logits.gather(1, labels[:, None]).clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        p, labels = ctx.saved_tensors
        p[torch.arange(len(labels)), labels] -= 1
        return p.div_(len(labels)).mul_(grad), None


def upstream_partial_fc(weight: torch.Tensor, home: str) -> torch.nn.Module:
    """Upstream's own head, which needs a process group and calls `.cuda()`."""
    sys.path.insert(0, home)
    from losses import ArcFace
    from partial_fc_v2 import PartialFC_V2

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    if not torch.cuda.is_available():
        setattr(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)  # noqa: B010
    head = PartialFC_V2(ArcFace(64.0, 0.5), weight.shape[1], weight.shape[0])
    head.weight.data.copy_(weight)
    return head


def prototype_head(weight: torch.Tensor) -> vm.PrototypeHead:
    head = vm.PrototypeHead(weight.shape[1], weight.shape[0], vm.q_margin(alpha=1.25, scale=32.0, margin=0.2))
    head.weight.data.copy_(weight)
    return head


def data(kind: str, classes: int, batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prototypes, embeddings and labels."""
    torch.manual_seed(0)
    labels = torch.randint(classes, (batch,))
    if kind == "fresh":
        return 0.01 * torch.randn(classes, size), torch.randn(batch, size), labels
    centre = torch.randn(-(-classes // CONFUSABLE), size)
    cluster = torch.randperm(classes) % len(centre)  # the classes of a cluster are spread over the class ids
    weight = F.normalize(0.7 * centre[cluster] + 0.7 * torch.randn(classes, size))
    embeddings = F.normalize(weight[labels] + 0.8 * F.normalize(torch.randn(batch, size)))
    return weight * (0.5 + torch.rand(classes, 1)), 20 * embeddings, labels


def build(side: str, weight: torch.Tensor) -> torch.nn.Module:
    if side == "q-margin":
        return prototype_head(weight)
    return DenseArcFace(weight.clone()) if side == "dense" else upstream_partial_fc(weight, side)


def one_step(head: torch.nn.Module, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    head.weight.grad = None
    head(embeddings.clone().requires_grad_(), labels.clone()).backward()


def paired_times(kind: str, other: str, sizes: argparse.Namespace) -> tuple[list[float], list[float], float]:
    """The seconds of Q-Margin's steps and of the other method's, taken in turns, and Q-Margin's active classes."""
    weight, embeddings, labels = data(kind, sizes.classes, sizes.batch, sizes.size)
    head = prototype_head(weight)
    steps: list[Callable[[], object]] = [lambda: one_step(head, embeddings, labels)]
    if other == "product":
        product = torch.empty(sizes.batch, sizes.classes)
        steps.append(lambda: torch.mm(embeddings, weight.t(), out=product))
    else:
        other_head = build(other, weight)
        steps.append(lambda: one_step(other_head, embeddings, labels))
    taken: tuple[list[float], list[float]] = ([], [])
    for round_ in range(sizes.rounds + 2):
        for step, seconds in zip(steps, taken):
            start = time.perf_counter()
            step()
            if round_ > 1:  # after a warm-up
                seconds.append(time.perf_counter() - start)
    return *taken, float(head.active_classes)


def peak_memory(kind: str, side: str, sizes: argparse.Namespace) -> float:
    """The peak memory in MiB, without prototypes and gradient, of a process that runs only this method."""
    command = [sys.executable, __file__, "--measure-memory", kind, side]
    command += ["--classes", str(sizes.classes), "--batch", str(sizes.batch), "--size", str(sizes.size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(kind: str, side: str, sizes: argparse.Namespace) -> None:
    one_step(
        build(side, torch.randn(300, sizes.size)), torch.randn(4, sizes.size), torch.arange(4)
    )  # loads the libraries
    weight, embeddings, labels = data(kind, sizes.classes, sizes.batch, sizes.size)
    head = build(side, weight)
    del weight

    def three_steps() -> None:
        for _ in range(3):
            one_step(head, embeddings, labels)

    print(peak_of(three_steps) - sizes.classes * sizes.size * 4 / 2**20)


def peak_of(call: Callable[[], object]) -> float:
    """The memory in MiB that a call needs in addition to what this process holds already."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the call could reuse memory that was freed earlier, without being seen
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak that was reached while the data were made
    call()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    sizes = parser.parse_args()
    if sizes.measure_memory:
        kind, side = sizes.measure_memory
        return measure_memory(kind, side, sizes)
    sides = {"dense ArcFace": "dense", "matrix product": "product"}
    if home := os.environ.get("ARCFACE_TORCH_HOME"):
        sides["PartialFC_V2"] = home
    print(f"{sizes.batch} x {sizes.classes} x {sizes.size}, {torch.get_num_threads()} threads, {platform.processor()}")
    rows = []
    for kind in ("trained", "fresh"):
        own_memory = peak_memory(kind, "q-margin", sizes)
        for name, side in sides.items():
            ours, theirs, active = paired_times(kind, side, sizes)
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            memory = peak_memory(kind, side, sizes) if side != "product" else float("nan")
            rows.append([kind, name, active, *quantiles(ours), *quantiles(theirs), ratio, own_memory, memory])
            print(
                f"{kind} prototypes, {active:.0f} active classes: Q-Margin {1e3 * quantiles(ours)[1]:.0f} ms, "
                f"{name} {1e3 * quantiles(theirs)[1]:.0f} ms, ratio {ratio:.2f}; {own_memory:.0f} and {memory:.0f} MiB"
            )
    if sizes.csv:
        provenance = [torch.__version__, vm.__version__, platform.platform(), datetime.date.today().isoformat()]
        columns = "prototypes side active p20_s p50_s p80_s side_p20_s side_p50_s side_p80_s ratio mib side_mib"
        with sizes.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns.split(), "torch", "verimargin", "on", "date"])
            writer.writerows(row + provenance for row in rows)


def quantiles(seconds: list[float]) -> tuple[float, float, float]:
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    return deciles[1], deciles[4], deciles[7]


if __name__ == "__main__":
    main()
