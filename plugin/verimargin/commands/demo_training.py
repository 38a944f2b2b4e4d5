"""The trainings of a demo, in processes of their own, and what the terminal shows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._processes import Send, cpus, run_each
from .demo_scores import Run, read_run

if TYPE_CHECKING:
    from rich.console import Console


class Step(NamedTuple):
    """How far a job is in one of its parts, such as an epoch."""

    part: str
    done: int
    total: int


def train_all(train: Callable[..., None], jobs: Mapping[str, tuple], console: Console) -> None:
    """Call ``train(*arguments, send)`` for each job, by the title of its loss, two or more at once.

    A job sends what the terminal shows: texts, and a `Step` for its bar, which names the loss and the part.
    """
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    if jobs:
        at_once = min(len(jobs), cpus())
        console.print(f"Training {len(jobs)} losses, {at_once} at a time, in processes of one thread each")
    try:
        for title, message in run_each(train, jobs):
            if isinstance(message, Step):
                bar = bars.get(title)
                if bar is None:
                    taken = {other.pos for other in bars.values()}
                    place = next(place for place in range(len(jobs)) if -place not in taken)
                    bar = bars[title] = tqdm(total=0, unit="step", leave=False, disable=None, position=place)
                _show(bar, title, message)
                continue
            if message is None and title in bars:
                bars.pop(title).close()
            with tqdm.external_write_mode():
                console.print(f"{title}: {'trained and scored' if message is None else message}")
    finally:
        for bar in bars.values():
            bar.close()


def train_losses(
    train: Callable[..., None], titles: Mapping[str, str], data: Path, output: Path, settings: Any, console: Console
) -> dict[str, Run]:
    """The runs of the losses, by name. Those without scores in OUTPUT/NAME are trained and scored first, by
    ``train(name, data, OUTPUT/NAME, settings, send)``, which writes them.
    """
    jobs, finished = {}, {name: output / name / "scores.npz" for name in titles}
    for name, title in titles.items():
        if finished[name].exists():
            console.print(f"{title}: trained and scored before, in {finished[name]}")
        else:
            jobs[title] = (name, data, output / name, settings)
    train_all(train, jobs, console)
    return {name: read_run(path, titles[name]) for name, path in finished.items()}


def _show(bar: Any, title: str, step: Step) -> None:
    if bar.disable:
        return
    if bar.desc != f"{title}, {step.part}: ":
        bar.reset(step.total)
        bar.set_description(f"{title}, {step.part}", refresh=False)
    bar.update(step.done - bar.n)


def sending(send: Send) -> Callable[..., Iterable]:
    """A progress for the inside of a job: it wraps steps of a known number, with a title, and sends each `Step`."""

    def progress(steps: Any, title: str) -> Iterator:
        for number, step in enumerate(steps, 1):
            yield step
            send(Step(title, number, len(steps)))

    return progress


def how_it_begins(epochs: int, checkpoint: Path | None) -> str:
    """What the terminal says when a training begins."""
    return f"resumes after epoch {epochs}, from {checkpoint}" if epochs else "begins"
