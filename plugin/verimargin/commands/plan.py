"""`verimargin plan`: what a head needs on each rank, in memory and in time, before anything is trained."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from ..head import roofline
from ..head.device_speed import GPUS, measured_cpu
from ..head.roofline import HeadCost, Pass, Speed, Workload

if TYPE_CHECKING:
    from rich.console import Console


class Loss(str, Enum):
    q_margin = "q_margin"
    arcface = "arcface"


class Device(str, Enum):
    h100 = "h100"
    a100 = "a100"
    cpu = "cpu"


def plan(
    classes: Annotated[float, typer.Option(help="the number of classes, such as 2e6")],
    ranks: Annotated[float, typer.Option(help="the processes that share the classes, one for each GPU")] = 1,
    batch: Annotated[float, typer.Option(help="the samples of each rank")] = 128,
    size: Annotated[float, typer.Option(help="the size of an embedding")] = 512,
    loss: Annotated[
        Loss, typer.Option(help="q_margin: the exact sparse head; arcface: that of arcface_torch's PartialFC_V2")
    ] = Loss.q_margin,
    sample_rate: Annotated[float, typer.Option(help="the share of the classes that arcface takes in a step")] = 1.0,
    device: Annotated[Device, typer.Option(help="a GPU by its vendor's figures, or this machine's CPU")] = Device.h100,
) -> None:
    """Show the memory of each rank and the time of a step of the head and of SGD, without training anything."""
    work = Workload(*map(_whole, ("--classes", "--ranks", "--batch", "--size"), (classes, ranks, batch, size)))
    gpu = device != Device.cpu
    speed = GPUS[device.value] if gpu else measured_cpu(work.samples, work.size)
    if loss == Loss.arcface:
        cost = roofline.partial_fc(work, fp16=gpu, sample_rate=sample_rate)
    elif sample_rate == 1.0:
        cost = roofline.q_margin(work, gpu, speed.int8 > 0)
    else:
        raise ValueError(f"--sample-rate is {sample_rate:g}, but q_margin takes all classes: leave it, or give arcface")
    _show(work, cost, speed, gpu)


def _whole(name: str, value: float) -> int:
    if not (value >= 1 and float(value).is_integer()):
        raise ValueError(f"{name} is {value:g}: give an integer >= 1, such as 128 or 2e6")
    return int(value)


def _show(work: Workload, cost: HeadCost, speed: Speed, gpu: bool) -> None:
    from rich.console import Console

    console = Console()
    console.print(
        f"Classes: {work.classes:,}, of which a rank holds {work.rows:,}. Samples in a step: {work.samples:,}, with "
        f"embeddings of size {work.size}. {speed.name}, {speed.source}: "
        f"{speed.bandwidth / 1e9:,.0f} GB/s, {speed.float32 / 1e12:,.3g} TFLOP/s in float32"
        + (f", {speed.float16 / 1e12:,.0f} in float16" if gpu else "")
        + (f", {speed.int8 / 1e12:,.3g} in int8." if speed.int8 else "."),
        highlight=False,
    )
    _show_memory(console, work, cost)
    _show_time(console, cost, work, speed)
    console.print(
        "A roofline: each pass takes as long as its arithmetic or its memory traffic, at full speed. Not counted: the "
        f"backbone and what ranks exchange. Q-Margin is taken to have {roofline.ACTIVE_SHARE:.2%} active classes.",
        highlight=False,
    )


def _show_memory(console: Console, work: Workload, cost: HeadCost) -> None:
    from rich.table import Table

    memory = roofline.memory(work, cost.float16_copy, cost.working)
    rows = {
        "prototypes": memory.prototypes,
        "their gradient": memory.gradient,
        "momentum of SGD": memory.momentum,
        "float16 copy of the prototypes": memory.float16_copy,
        "working memory of the head": memory.head,
        "working memory of SGD": memory.optimiser,
        "at the peak": memory.peak,
    }
    table = Table("memory of each rank", "MiB", title=None)
    table.columns[1].justify = "right"
    for name, size in rows.items():
        table.add_row(name, f"{size / 2**20:,.1f}", end_section=name == "working memory of SGD")
    console.print(table)


def _show_time(console: Console, cost: HeadCost, work: Workload, speed: Speed) -> None:
    from rich.table import Table

    table = Table("time of a step", "ms", "limited by")
    table.columns[1].justify = "right"
    for title, passes in (("the head", cost.passes), ("SGD", roofline.sgd(work))):
        for part in passes:
            table.add_row(part.name, f"{1e3 * part.seconds(speed):,.3f}", _limit(part, speed))
        table.add_row(title, f"{1e3 * roofline.seconds(passes, speed):,.3f}", style="bold", end_section=True)
    console.print(table)


def _limit(part: Pass, speed: Speed) -> str:
    times = {
        "arithmetic": part.arithmetic(speed),
        "memory": part.traffic(speed) + part.new / speed.new_memory,
        "starting kernels": part.starts * speed.start,
    }
    return max(times, key=lambda name: times[name])
