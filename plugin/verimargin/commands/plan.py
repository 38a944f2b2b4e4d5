"""`verimargin plan`: what a head needs on each rank, in memory and in time, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from .._checks import check_share
from ..head import roofline
from ..head.device_speed import GPUS, measured_cpu
from ..head.fresh import fresh_share
from ..head.roofline import HeadCost, Pass, Speed, Workload

if TYPE_CHECKING:
    from rich.console import Console


ALPHA, SCALE = 1.25, 32.0  # of q_margin, where nothing is said


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
    alpha: Annotated[
        float | None, typer.Option(help="that of q_margin, for the start of a training", show_default=f"{ALPHA:g}")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="that of q_margin, for the start of a training", show_default=f"{SCALE:g}")
    ] = None,
    active: Annotated[
        float | None,
        typer.Option(
            help="the share of the classes that is active for a sample of q_margin",
            show_default=f"{roofline.ACTIVE_SHARE:g}",
        ),
    ] = None,
    subcenters: Annotated[float, typer.Option(help="the prototypes per class of q_margin")] = 1,
    device: Annotated[Device, typer.Option(help="a GPU by its vendor's figures, or this machine's CPU")] = Device.h100,
) -> None:
    """Show the memory of each rank and the time of a step of the head and of SGD, without training anything."""
    work = Workload(*map(_whole, ("--classes", "--ranks", "--batch", "--size"), (classes, ranks, batch, size)))
    number = _whole("--subcenters", subcenters)
    if loss == Loss.arcface:
        _refuse_for_arcface({"--alpha": alpha, "--scale": scale, "--active": active}, number)
    gpu = device != Device.cpu
    speed = GPUS[device.value] if gpu else measured_cpu(work.samples, work.size)
    if loss == Loss.arcface:
        _show(work, roofline.partial_fc(work, fp16=gpu, sample_rate=sample_rate), speed, gpu)
        return
    if sample_rate != 1.0:
        raise ValueError(f"--sample-rate is {sample_rate:g}, but q_margin takes all classes: leave it, or give arcface")
    alpha, scale = ALPHA if alpha is None else alpha, SCALE if scale is None else scale
    trained, fresh = _q_margin(work, alpha, scale, roofline.ACTIVE_SHARE if active is None else active, number)
    int8 = speed.int8 > 0
    _show(trained, roofline.q_margin(trained, gpu, int8), speed, gpu)
    _show_assumptions(trained, fresh, gpu, int8, number, f"alpha {alpha:g} and scale {scale:g}")


def _refuse_for_arcface(given: Mapping[str, float | None], subcenters: int) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is {value:g}, but only q_margin has it: leave it out")
    if subcenters > 1:
        raise ValueError(f"--subcenters is {subcenters}, but PartialFC_V2 has one prototype per class: leave it out")


def _q_margin(work: Workload, alpha: float, scale: float, active: float, subcenters: int) -> tuple[Workload, Workload]:
    """The sizes once trained, and those at the start of a training."""
    check_share("--active", active, "(0, 1]")
    if not 1.0 < alpha <= 8.0:
        raise ValueError(
            f"--alpha is {alpha:g}: give a number above 1, at most 8; at 1 the head is dense, as with arcface"
        )
    fresh = fresh_share(work.classes, work.size, alpha, scale, subcenters)
    trained, started = (replace(work, active_share=share) for share in (active, fresh))
    return trained.with_subcenters(subcenters), started.with_subcenters(subcenters)


def _whole(name: str, value: float) -> int:
    if not (value >= 1 and float(value).is_integer()):
        raise ValueError(f"{name} is {value:g}: give an integer >= 1, such as 128 or 2e6")
    return int(value)


def _show(work: Workload, cost: HeadCost, speed: Speed, gpu: bool) -> None:
    from rich.console import Console

    console = Console()
    console.print(
        f"Prototypes: {work.classes:,}, of which a rank holds {work.rows:,}. Samples in a step: {work.samples:,}, with "
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
        "backbone and what ranks exchange.",
        highlight=False,
    )


def _show_assumptions(work: Workload, fresh: Workload, gpu: bool, int8: bool, subcenters: int, loss: str) -> None:
    """What the plan of Q-Margin takes for granted, and what is different when the prototypes are fresh."""
    from rich.console import Console

    cost = roofline.q_margin(fresh, gpu, int8)
    memory = roofline.memory(fresh, cost.float16_copy, cost.working)
    screened = "in float16, by fused kernels" if gpu else "in int8" if int8 else "by nothing, without VNNI"
    slower = ""
    if gpu and subcenters > 1:
        slower = (
            " The kernels take one prototype per class, so a head with sub-centres does without them, and takes more "
            "time and working memory than this."
        )
    Console().print(
        f"Screened {screened}, as with screening auto; other choices are not planned.{slower} For a sample, "
        f"{100 * work.active_share:.3g} % of the prototypes are active, as in a training that has gone on for a "
        f"while.\nAt its start, with {loss} and fresh prototypes, {100 * fresh.active_share:.3g} % are active: the "
        f"head then works with up to {cost.working / 2**20:,.1f} MiB, and the peak is {memory.peak / 2**20:,.1f} MiB.",
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
