"""Time and memory of a head's step (forward and backward), as ratios to what it replaces, and of the optimiser's.

    python benchmarks/head.py [--classes 100000] [--batch 128] [--size 512] [--rounds 15] [--device cpu] [--csv FILE]
                             [--prototypes KIND ...] [--beside SIDE ...]

`PrototypeHead` with Q-Margin takes turns, within one process for each side, with:

- an ArcFace head with the arithmetic of Partial FC (`DenseArcFace` below) and, if ARCFACE_TORCH_HOME is the
  recognition/arcface_torch folder of a checkout, its `PartialFC_V2`; on a GPU with fp16=True, which is faster than
  what train_v2.py asks for (it passes False), and with sample_rate 0.1 too;
- the single matrix product E W^T, the least that any exact head has to compute; on a GPU in float16;
- the step of SGD with momentum and weight decay on the prototypes, as arcface_torch takes it, and its fused form.

The prototypes are of the kinds of `prototypes.py`. Several --classes and --batch are all combined. A ratio is the
median of the ratios of all rounds: the time of Q-Margin divided by the side's. Memory is the peak beyond the prototypes
and their gradient; on a CPU it is that of a separate process. --csv appends one row per measurement to a file, which
keeps the history. What does not fit in a GPU's memory is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import verimargin as vm
from measurement import append_rows, check_columns, markdown, peak_of, processor, provenance, quantiles, seconds
from prototypes import KINDS, data, q_margin
from torch import Tensor
from torch.nn import functional as F

OURS = "Q-Margin"
SAMPLE_RATE = 0.1
WARM_UP = 2  # rounds
MEASURED = (
    *("classes", "batch", "size", "prototypes", "active", "side", "p20_s", "p50_s", "p80_s"),
    *("side_p20_s", "side_p50_s", "side_p80_s", "ratio", "mib", "side_mib"),
)
TABLE = ("C", "B", "prototypes", "active", "Q-Margin ms", "MiB", "beside", "ms", "MiB", "time ratio")
Step = Callable[[], object]


class DenseArcFace(torch.nn.Module):
    """ArcFace as Partial FC computes it in one process: with normalised copies of the embeddings and the prototypes,
    with arccos and cos of all clamped logits in place, and with a softmax in place.

    Args:
        fp16: the product is taken under autocast, and all else in float32.
        sample_rate: below 1, the classes of the batch and randomly chosen others, together this share, take part.
    """

    def __init__(
        self,
        weight: torch.nn.Parameter,
        fp16: bool = False,
        sample_rate: float = 1.0,
        scale: float = 64.0,
        margin: float = 0.5,
    ):
        super().__init__()
        self.weight, self.fp16, self.sample_rate, self.scale, self.margin = weight, fp16, sample_rate, scale, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        weight, labels = self.sample(labels) if self.sample_rate < 1.0 else (self.weight, labels)
        with torch.autocast(embeddings.device.type, torch.float16, enabled=self.fp16):
            logits = F.linear(F.normalize(embeddings), F.normalize(weight))
        logits = logits.float().clamp(-1, 1)
        with torch.no_grad():
            logits.acos_()
            logits[torch.arange(len(labels), device=labels.device), labels] += self.margin
            logits.cos_()
        return SoftmaxCrossEntropy.apply(logits * self.scale, labels)

    def sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The prototypes that take part, and the labels' positions among them."""
        order = torch.rand(len(self.weight), device=labels.device)
        order[labels] = 2.0
        index = order.topk(int(self.sample_rate * len(order))).indices.sort().values
        return self.weight[index], torch.searchsorted(index, labels)


class SoftmaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits.sub_(logits.amax(1, keepdim=True)).exp_()
        logits.div_(logits.sum(1, keepdim=True))
        ctx.save_for_backward(logits, labels)
        return -logits.gather(1, labels[:, None]).clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, labels = ctx.saved_tensors
        p[torch.arange(len(labels), device=labels.device), labels] -= 1
        return p.div_(len(labels)).mul_(grad), None


def upstream_partial_fc(weight: torch.nn.Parameter, home: str, fp16: bool, sample_rate: float) -> torch.nn.Module:
    """Upstream's own head, which needs a process group and calls `.cuda()`."""
    if home not in sys.path:
        sys.path.insert(0, home)
    from losses import ArcFace
    from partial_fc_v2 import PartialFC_V2

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        backend = "nccl" if weight.is_cuda else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    if not torch.cuda.is_available():
        setattr(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)  # noqa: B010
    head = PartialFC_V2(ArcFace(64.0, 0.5), weight.shape[1], 1, sample_rate, fp16)
    head.num_local, head.num_sample = len(weight), int(sample_rate * len(weight))  # without drawing other prototypes
    head.weight = weight
    return head


def step_of(head: torch.nn.Module, embeddings: Tensor, labels: Tensor) -> Step:
    """Forward and backward, with a new gradient of the embeddings and of the prototypes."""

    def step() -> None:
        head.weight.grad = None
        head(embeddings.clone().requires_grad_(), labels.clone()).backward()

    return step


def sides(device: torch.device) -> list[str]:
    """The names of what Q-Margin is compared with on this device."""
    upstream = ["PartialFC_V2"] if os.environ.get("ARCFACE_TORCH_HOME") else []
    if device.type == "cpu":
        heads = ["dense ArcFace", *upstream]
    else:  # the same arithmetic is measured once
        heads = [f"{name}{rate}" for name in upstream or ["dense ArcFace"] for rate in ("", f", rate {SAMPLE_RATE}")]
    return [*heads, "matrix product", "SGD", "SGD, fused"]


def side_step(side: str, weight: torch.nn.Parameter, embeddings: Tensor, labels: Tensor) -> Step:
    """One step of a side, on these prototypes; the optimiser's takes the gradient that the prototypes have."""
    if side.startswith("SGD"):
        # a learning rate of 0 costs the same, and leaves the prototypes as they are
        optimiser = torch.optim.SGD([weight], lr=0.0, momentum=0.9, weight_decay=5e-4, fused=side.endswith("fused"))
        return optimiser.step
    half = weight.is_cuda
    if side == "matrix product":
        dtype = torch.float16 if half else torch.float32
        left, right = embeddings.to(dtype), weight.detach().to(dtype).t()
        product = left.new_empty(len(left), right.shape[1])
        return lambda: torch.mm(left, right, out=product)
    rate = SAMPLE_RATE if "rate" in side else 1.0
    if side.startswith("PartialFC"):
        head = upstream_partial_fc(weight, os.environ["ARCFACE_TORCH_HOME"], half, rate)
        return step_of(head, embeddings.float(), labels)  # it gathers the ranks' embeddings in float32
    return step_of(DenseArcFace(weight, half, rate), embeddings, labels)


def prototype_head(classes: int, size: int) -> vm.PrototypeHead:
    return vm.PrototypeHead(size, classes, q_margin())


class Problem:
    """Q-Margin's head with prototypes of a kind, embeddings (in float16 on a GPU) and labels, on a device."""

    def __init__(self, head: vm.PrototypeHead, kind: str, batch: int, device: torch.device):
        with device:
            weight, embeddings, labels = data(kind, head.num_classes, batch, head.embedding_size)
        head.weight = torch.nn.Parameter(weight)
        self.head = head.to(device)
        self.embeddings = embeddings.half() if device.type == "cuda" else embeddings
        self.labels, self.device = labels, device

    def step(self, side: str) -> Step:
        if side == OURS:
            return step_of(self.head, self.embeddings, self.labels)
        return side_step(side, self.head.weight, self.embeddings, self.labels)

    def paired_times(self, side: str, rounds: int) -> tuple[list[float], list[float]]:
        """The seconds of Q-Margin's steps and of the side's, taken in turns."""
        steps = self.step(OURS), self.step(side)
        taken: tuple[list[float], list[float]] = ([], [])
        for round_ in range(rounds + WARM_UP):
            for step, values in zip(steps, taken):
                value = seconds(step, self.device)
                if round_ >= WARM_UP:
                    values.append(value)
        return taken

    def memory(self, side: str) -> float:
        """The peak memory in MiB of three steps, without prototypes and gradient."""
        weight = self.head.weight
        if optimiser := side.startswith("SGD"):
            self.step(OURS)()
        else:
            weight.grad = None
        step = self.step(side)

        def three_steps() -> None:
            for _ in range(3):
                step()

        gradient = 0.0 if optimiser else weight.numel() * weight.element_size() / 2**20
        return peak_of(three_steps, self.device) - gradient


def memory_of_process(kind: str, side: str, classes: int, batch: int, size: int) -> float:
    """`Problem.memory` in a process of its own, for a CPU."""
    return float(in_process("--measure-memory", kind, side, classes, batch, size).split()[-1])


def times_of_process(kind: str, side: str, sizes: tuple[int, int, int], rounds: int) -> tuple[list, list, float]:
    """`Problem.paired_times` and the active classes, in a process of its own: what other sides leave behind in a
    process, such as threads that wait, takes time from Q-Margin.
    """
    ours, theirs, active = json.loads(in_process("--measure-times", kind, side, *sizes, rounds).splitlines()[-1])
    return ours, theirs, active


def in_process(what: str, kind: str, side: str, classes: int, batch: int, size: int, rounds: int = 0) -> str:
    command = [sys.executable, __file__, what, kind, side, "--rounds", str(rounds)]
    command += ["--classes", str(classes), "--batch", str(batch), "--size", str(size)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure_times(kind: str, side: str, classes: int, batch: int, size: int, rounds: int) -> None:
    problem = Problem(prototype_head(classes, size), kind, batch, torch.device("cpu"))
    print(json.dumps([*problem.paired_times(side, rounds), float(problem.head.active_classes)]))


def measure_memory(kind: str, side: str, classes: int, batch: int, size: int) -> None:
    cpu = torch.device("cpu")
    Problem(prototype_head(300, size), kind, 4, cpu).memory(side)  # loads the libraries
    print(Problem(prototype_head(classes, size), kind, batch, cpu).memory(side))


def measurements(
    head: vm.PrototypeHead, kind: str, batch: int, rounds: int, device: torch.device, names: Sequence[str]
) -> list[dict]:
    """A row for each of the named sides, with the columns MEASURED; of a GPU's, those that fit in its memory."""
    sizes = head.num_classes, batch, head.embedding_size
    memory = {name: math.nan for name in names}
    if device.type == "cpu":  # before this process has data of its own
        memory |= {n: memory_of_process(kind, n, *sizes) for n in (OURS, *names) if n != "matrix product"}
    else:
        problem = Problem(head, kind, batch, device)
    rows = []
    for side in names:
        try:
            if device.type == "cpu":
                ours, theirs, active = times_of_process(kind, side, sizes, rounds)
            else:
                ours, theirs = problem.paired_times(side, rounds)
                active = float(head.active_classes)
                memory |= {n: problem.memory(n) for n in (OURS, side) if n != "matrix product"}
        except torch.OutOfMemoryError:
            print(f"{side} with {sizes[0]:,} classes and {batch} samples: out of memory", file=sys.stderr)
            continue
        ratio = statistics.median(a / b for a, b in zip(ours, theirs))
        times = *quantiles(ours), *quantiles(theirs)
        values = *sizes, kind, active, side, *times, ratio, memory[OURS], memory[side]
        rows.append(dict(zip(MEASURED, values)))
    head.weight = torch.nn.Parameter(torch.empty(0, head.embedding_size))  # frees the memory
    return rows


def table_row(row: dict) -> list[str]:
    mib = ["-" if math.isnan(value) else f"{value:,.0f}" for value in (row["mib"], row["side_mib"])]
    ours, theirs = (f"{1e3 * row[name]:.3g}" for name in ("p50_s", "side_p50_s"))
    head = [f"{row['classes']:,}", f"{row['batch']:,}", row["prototypes"], f"{row['active']:,.0f}"]
    return [*head, ours, mib[0], row["side"], theirs, mib[1], f"{row['ratio']:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[128])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--prototypes", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--beside", nargs="+", help="the sides, as the table calls them; all by default")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure-times", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure_times:
        kind, side = given.measure_times
        return measure_times(kind, side, given.classes[0], given.batch[0], given.size, given.rounds)
    if given.measure_memory:
        kind, side = given.measure_memory
        return measure_memory(kind, side, given.classes[0], given.batch[0], given.size)
    names = sides(given.device)
    if unknown := set(given.beside or ()) - set(names):
        parser.error(f"--beside has {', '.join(sorted(unknown))}: the sides here are {', '.join(names)}")
    origin = provenance(given.device)
    if given.csv:
        check_columns(given.csv, [*origin, *MEASURED])
    on = processor(given.device) + (f", {origin['threads']} threads" if given.device.type == "cpu" else "")
    print(f"{on}, d {given.size}, PyTorch {origin['torch']}, verimargin {origin['revision'] or origin['verimargin']}\n")
    print(markdown(TABLE, []), flush=True)
    for classes in given.classes:
        head = prototype_head(classes, given.size)
        for kind in given.prototypes:
            for batch in given.batch:
                rows = measurements(head, kind, batch, given.rounds, given.device, given.beside or names)
                print(*("| " + " | ".join(table_row(row)) + " |" for row in rows), sep="\n", flush=True)
                if given.csv and rows:
                    append_rows(given.csv, [{**origin, **row} for row in rows])


if __name__ == "__main__":
    main()
