"""What a training step of a head and its optimiser costs: memory per rank, and time from a roofline.

A step is a list of passes. A pass takes the longer of the time of its arithmetic and that of its memory traffic::

    seconds = max(flops / throughput, bytes / bandwidth)

and what it costs in addition to touch newly allocated memory (on a CPU) and to start its kernels. The lists below are
written by hand from the code that they describe, so they change with it. Communication between ranks is left out: it
moves (B, d) embeddings and a few numbers per sample, never logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from .._checks import check_at_least, check_integer, check_share
from .step import BLOCK
from .streaming import chunk_size

ACTIVE_SHARE = 0.0005  # of the classes are active for a sample, as published (arXiv 2606.31664)
SAMPLE, GROUP = 4, 32  # a GPU keeps the largest logit of each group of every fourth class
SOLVES, ITERATIONS = 5, 5  # of the threshold in a step, and Newton's of each
CANDIDATE = 140  # bytes per candidate at the peak: its entry in two lists, and what the threshold needs
FLOAT, HALF = 4, 2  # bytes of a number


@dataclass(frozen=True)
class Speed:
    """What a device does per second, and where these figures come from."""

    name: str
    source: str
    float32: float  # floating-point operations of a product
    float16: float
    int8: float  # 0 if the head does not screen in int8 there
    bandwidth: float  # bytes that are read or written
    new_memory: float = math.inf  # bytes of newly allocated memory that are touched; infinite if memory is reused
    functions: float = math.inf  # values of arccos or cos; infinite if the memory is slower than they are
    start: float = 5e-6  # seconds until a kernel or an operation of PyTorch runs


@dataclass(frozen=True)
class Workload:
    """The sizes of a step: C classes over the ranks, B samples on each rank, embeddings of size d.

    Raises:
        ValueError: a size is not a positive integer, there are more ranks than classes, or active_share, that of the
            classes that are active for a sample, is not in (0, 1].
    """

    classes: int
    ranks: int
    batch: int
    size: int
    active_share: float = ACTIVE_SHARE

    def __post_init__(self) -> None:
        check_share("active_share", self.active_share, "(0, 1]")
        for name in ("classes", "ranks", "batch", "size"):
            value = getattr(self, name)
            object.__setattr__(self, name, check_integer(name, check_at_least(name, value, 1), 1))
        if self.ranks > self.classes:
            raise ValueError(f"there are {self.classes} classes on {self.ranks} ranks: give each rank at least one")

    @property
    def rows(self) -> int:
        """The classes of the first rank, which has the most."""
        return -(-self.classes // self.ranks)

    @property
    def samples(self) -> int:
        """The head sees the samples of all ranks."""
        return self.ranks * self.batch

    @property
    def numbers(self) -> int:
        """The numbers in a rank's prototypes."""
        return self.rows * self.size

    @property
    def active(self) -> int:
        """The pairs of a sample and an active class on a rank, apart from the samples' own classes."""
        return round(self.samples * self.active_share * self.rows)

    @property
    def candidates(self) -> int:
        """The largest number of candidates on a rank: their list may double before it is pruned."""
        return min(2 * self.active, self.samples * self.rows) + 2 * self.samples

    def with_subcenters(self, number: int) -> Workload:
        """The sizes with several prototypes per class, of which one is active where the class is."""
        share = self.active_share / number
        return replace(self, classes=self.classes * number, active_share=share)


@dataclass(frozen=True)
class Pass:
    """A part of a step. The flops are in `precision`, a field of `Speed`; `new` are the bytes in new memory."""

    name: str
    flops: float = 0.0
    bytes: float = 0.0
    precision: str = "float32"
    new: float = 0.0
    functions: float = 0.0
    starts: int = 1

    def arithmetic(self, speed: Speed) -> float:
        return (self.flops / getattr(speed, self.precision) if self.flops else 0.0) + self.functions / speed.functions

    def traffic(self, speed: Speed) -> float:
        return self.bytes / speed.bandwidth

    def seconds(self, speed: Speed) -> float:
        """The time of the pass on a device."""
        longer = max(self.arithmetic(speed), self.traffic(speed))
        return longer + self.new / speed.new_memory + self.starts * speed.start


@dataclass(frozen=True)
class HeadCost:
    """What a head needs in a step beyond its prototypes and their gradient."""

    passes: tuple[Pass, ...]
    float16_copy: int  # bytes
    working: int  # bytes at the peak, without the copy


@dataclass(frozen=True)
class Memory:
    """The bytes on one rank; what the head works with is free again when the optimiser begins."""

    prototypes: int
    gradient: int
    momentum: int
    float16_copy: int
    head: int
    optimiser: int

    @property
    def peak(self) -> int:
        kept = self.prototypes + self.gradient + self.momentum
        return kept + max(self.float16_copy + self.head, self.optimiser)


def memory(work: Workload, float16_copy: int, working: int) -> Memory:
    """The memory of a training with SGD as arcface_torch sets it: momentum, and weight decay in a tensor of its own."""
    own = FLOAT * work.numbers
    return Memory(own, own, own, float16_copy, working, own)


def seconds(passes: Iterable[Pass], speed: Speed) -> float:
    return sum(part.seconds(speed) for part in passes)


def q_margin(work: Workload, gpu: bool, int8: bool = False) -> HeadCost:
    """The exact head with alpha > 1, trained prototypes: screened in float16 on a GPU, streamed on a CPU.

    Args:
        int8: whether the CPU screens in int8.
    """
    return _q_margin_on_gpu(work) if gpu else _q_margin_on_cpu(work, int8)


def _q_margin_on_cpu(work: Workload, int8: bool) -> HeadCost:
    chunk = min(chunk_size(work.samples, torch.device("cpu")), work.rows)
    logits = work.samples * work.rows
    passes = (
        Pass("norms of the prototypes", bytes=2 * FLOAT * work.numbers),  # as measured: a norm is slower than its read
        *(_screening(work, logits, chunk) if int8 else _streaming(work, logits, chunk)),
        _thresholds(work),
        # A CPU reads a line before it writes it. The other two counts fit what was measured on one.
        *_sparse_gradient(work, zeros=2, gathered=12, removed=10),
    )
    candidates = CANDIDATE * work.candidates
    block = 4 * FLOAT * min(BLOCK, work.rows) * work.size  # of the gradient, and what removes its radial part
    screened = FLOAT * 2 * work.samples * chunk + (FLOAT + 1) * chunk * work.size + FLOAT * work.rows if int8 else 0
    return HeadCost(passes, 0, FLOAT * (work.samples * chunk + work.rows) + screened + candidates + block)


def _streaming(work: Workload, logits: int, chunk: int) -> tuple[Pass, ...]:
    search = Pass("logits scaled and searched", bytes=4 * FLOAT * logits, starts=8 * -(-work.rows // chunk))
    return _product(work, logits), search


def _screening(work: Workload, logits: int, chunk: int) -> tuple[Pass, ...]:
    chunks = -(-work.rows // chunk)
    return (
        # maximum, minimum, scaled, rounded, cast: nine passes of a chunk in the cache, which is twice as fast
        Pass("prototypes rounded to int8", bytes=4.5 * FLOAT * work.numbers, starts=8 * chunks),
        Pass("product in int8", flops=2 * logits * work.size, bytes=work.numbers, precision="int8"),
        Pass("screened logits scaled and searched", bytes=5 * FLOAT * logits, starts=16 * chunks),
    )


def _q_margin_on_gpu(work: Workload) -> HeadCost:
    logits, copy = work.samples * work.rows, HALF * work.numbers
    maxima, bits = FLOAT * logits // (SAMPLE * GROUP), logits // 8
    everyone = FLOAT * work.ranks * work.active  # the candidates of all ranks, whose logits each rank has
    passes = (
        Pass("prototypes rounded to float16", bytes=FLOAT * work.numbers + copy),
        Pass(
            "product: largest logits of groups",
            flops=2 * logits * work.size / SAMPLE,
            bytes=copy / SAMPLE + maxima,
            precision="float16",
        ),
        Pass("threshold from the groups", bytes=ITERATIONS * maxima),
        Pass("product: candidates", flops=2 * logits * work.size, bytes=copy + 2 * bits, precision="float16"),
        Pass("candidates in float32", flops=2 * work.active * work.size, bytes=2 * FLOAT * work.active * work.size),
        Pass("thresholds", bytes=ITERATIONS * everyone),
        *_sparse_gradient(work, zeros=1, gathered=3, removed=4),
    )
    candidates = CANDIDATE * work.candidates
    joined = 8 * everyone if work.ranks > 1 else 0  # with their p and their places
    return HeadCost(passes, copy, maxima + bits + 2 * FLOAT * work.rows + candidates + joined)


def _product(work: Workload, logits: int, name: str = "product") -> Pass:
    return Pass(name, flops=2 * logits * work.size, bytes=FLOAT * work.numbers)


def _thresholds(work: Workload) -> Pass:
    """Newton's iterations over the candidates; the operations of one move about 400 bytes for each candidate."""
    steps = SOLVES * ITERATIONS
    return Pass("thresholds", bytes=steps * 400 * (work.active + work.samples), starts=steps * 60)


def _sparse_gradient(work: Workload, zeros: int, gathered: int, removed: int) -> tuple[Pass, Pass]:
    """The gradient is zero but for the active classes: rows are gathered and summed, and the radial part removed.

    Args:
        zeros, gathered, removed: how often a row is read or written to set it to zero, for each active pair, and to
            remove the radial part.
    """
    row, pairs = FLOAT * work.size, work.active + work.samples
    classes = work.rows * -math.expm1(-pairs / work.rows)  # that are active for a sample, if these are independent
    return (
        Pass("gradient set to zero", bytes=zeros * row * work.rows),
        Pass("gradient of the active classes", bytes=row * (gathered * pairs + removed * classes), starts=16),
    )


def partial_fc(work: Workload, fp16: bool, sample_rate: float = 1.0) -> HeadCost:
    """ArcFace as upstream's `PartialFC_V2` computes it, with the product under autocast if `fp16`.

    Raises:
        ValueError: sample_rate is not in (0, 1].
    """
    check_share("sample_rate", sample_rate, "(0, 1]")
    part = max(int(sample_rate * work.rows), 1)
    numbers, logits = part * work.size, work.samples * part
    values, matrix, product = FLOAT * numbers, FLOAT * logits, 2 * logits * work.size
    copy, precision = (HALF * numbers, "float16") if fp16 else (0, "float32")
    # The counts are of reads and writes; a new matrix is one that an operation returns.
    passes = [
        Pass("prototypes normalised", bytes=4 * values + 3 * copy, new=values + copy, starts=4),
        Pass("product", flops=product, bytes=copy or values, precision=precision, new=matrix),
        # clamped, arccos, cos, scaled; then less the maximum, exp, sum and division
        Pass("logits and softmax", bytes=14 * matrix, new=2 * matrix, functions=2 * logits, starts=20),
        # the one-hot matrix, its difference with p, division, and back through scale and clamp
        Pass("gradient of the logits", bytes=19 * matrix, new=5 * matrix, starts=16),
        Pass(
            "products backward",
            flops=2 * product,
            bytes=2 * matrix + 2 * values,
            precision=precision,
            new=values,
            starts=2,
        ),
        # back through the division by the norm and through the norm: ten operations, seven of which return a matrix
        Pass("gradient through the norms", bytes=24 * values + 3 * copy, new=7 * values, starts=12),
    ]
    working = max(
        values + copy + 3 * matrix,  # forward: normalised rows; logits, clamped ones and p
        (copy or values) + 4 * matrix,  # backward: normalised rows; logits, p, one-hot rows and the rows they change
        4 * values,  # the gradient of the normalised rows, and what leads from there to that of the rows
    )
    if sample_rate < 1.0:
        gathered = Pass("classes sampled", bytes=20 * work.rows * FLOAT + 2 * values, new=values, starts=10)
        spread = Pass("gradient of the sampled", bytes=FLOAT * work.numbers + 3 * values, new=FLOAT * work.numbers)
        passes = [gathered, *passes, spread]
        working += values
    return HeadCost(tuple(passes), copy, working - copy)


def sgd(work: Workload, fused: bool = False) -> tuple[Pass, ...]:
    """The step of `torch.optim.SGD` with momentum and weight decay on the prototypes.

    Five reads and writes are the least. PyTorch's default form takes eleven, as each operation is a pass of its own.
    """
    values = FLOAT * work.numbers
    if fused:
        return (Pass("SGD, fused", bytes=5 * values),)
    return (
        Pass("weight decay", bytes=3 * values, new=values),
        Pass("momentum", bytes=5 * values, starts=2),
        Pass("update of the prototypes", bytes=3 * values),
    )


def prototype_head_memory(work: Workload, alpha: float, gpu: bool, sample_rate: float = 1.0) -> Memory:
    """The memory of a training with a `PrototypeHead`, which holds the logits if alpha is 1, and only then."""
    part = replace(work, classes=max(int(sample_rate * work.classes), work.ranks))
    if alpha > 1.0:
        cost = q_margin(part, gpu)
        float16_copy, working = cost.float16_copy, cost.working
    else:
        block = 4 * FLOAT * min(BLOCK, part.rows) * part.size
        float16_copy, working = 0, FLOAT * (part.samples * part.rows + 2 * part.rows) + block
    if sample_rate < 1.0:
        working += 2 * FLOAT * part.numbers  # the prototypes that take part, and their gradient
    return memory(work, float16_copy, working)
