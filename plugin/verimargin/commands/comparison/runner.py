"""Runs the programs of an experiment, several at once on several devices."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from ...files.locks import lock_file_now
from .run import LOG, Run
from .toolkit import Step

if TYPE_CHECKING:
    from rich.console import Console

Steps = Callable[[Run, Sequence[str]], Sequence[Step]]  # of a run on the devices that it sees
POLL = 0.2  # seconds between looks
NOTE = 10.0  # seconds between notes of the time
GRACE = 20.0  # seconds until what does not end is killed


@dataclass
class Failure:
    run: Run
    reason: str
    log: str


@dataclass
class Active:
    """A run that goes on."""

    run: Run
    steps: list[Step]
    devices: Sequence[str]
    environment: dict[str, str]
    lock: int
    process: subprocess.Popen | None = None
    log: IO[bytes] | None = None
    started: float = 0.0
    before: float = 0.0  # seconds that the step had taken before an interruption
    noted: float = 0.0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


def run_all(
    runs: Sequence[Run], devices: Sequence[Sequence[str]], steps: Steps, versions: dict[str, str], console: Console
) -> list[Failure]:
    """Run what is not finished, and return the runs that failed; however this ends, no program of it goes on."""
    waiting, free = [run for run in runs if not run.finished], list(devices)
    active: list[Active] = []
    failures: list[Failure] = []
    total = len(waiting)
    with _bars(console) as bars:
        tasks = {}
        try:
            while waiting or active:
                while waiting and free:
                    run, place = waiting.pop(0), free.pop(0)
                    run.begin(versions)
                    lock = _lock(run, console)
                    todo = [s for s in steps(run, seen(place)) if not run.state().get(s.name, {}).get("finished")]
                    active.append(Active(run, todo, place, environment(place, len(devices)), lock))
                    tasks[run.title] = bars.add_task(run.title, total=None)
                for a in list(active):
                    reason = _advance(a)
                    bars.update(tasks[a.run.title], description=_title(a))
                    if reason is None:
                        continue
                    active.remove(a)
                    free.append(a.devices)
                    os.close(a.lock)
                    bars.remove_task(tasks.pop(a.run.title))
                    if reason:
                        failures.append(Failure(a.run, reason, a.run.last_lines()))
                    done = f"{total - len(waiting) - len(active)} of {total}"
                    how = f"failed: {reason}" if reason else "finished"
                    console.print(f"{a.run.title}: {how} after {clock(a.run.seconds)} ({done})", highlight=False)
                bars.refresh()
                time.sleep(POLL)
        finally:
            _end([a for a in active if a.process])
    return failures


def seen(place: Sequence[str]) -> list[str]:
    """The devices as a run sees them, of which the first is number 0."""
    return ["cpu"] * len(place) if place[0] == "cpu" else [f"cuda:{n}" for n in range(len(place))]


def environment(place: Sequence[str], number: int) -> dict[str, str]:
    """What shows a run its devices only: its GPUs, or a share of the processor's cores."""
    if place[0] == "cpu":
        threads = os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or 1) // number, 1))
        return {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = visible.split(",") if visible else None
    chosen = [device.partition(":")[2] for device in place]
    return {"CUDA_VISIBLE_DEVICES": ",".join(numbers[int(n)] if numbers else n for n in chosen)}


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(3725)
    '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _advance(a: Active) -> str | None:
    """Start the next step when there is none, or look at the one that goes on; a text once the run has ended.

    The text is empty if all steps were successful.
    """
    if a.process is None:
        if not a.steps:
            return ""
        _start(a)
        return None
    step, code = a.steps[0], a.process.poll()
    if code is None:
        if a.seconds > a.noted + NOTE:
            a.noted = a.seconds
            a.run.note(step.name, a.seconds, False)
        return None
    if a.log:
        a.log.close()
    a.process = None
    a.run.note(step.name, a.seconds, code == 0)
    a.steps.pop(0)
    if code == 0:
        return "" if not a.steps else None
    return f"{step.name} ended with " + (f"status {code}" if code > 0 else f"signal {signal.Signals(-code).name}")


def _start(a: Active) -> None:
    step = a.steps[0]
    a.before = a.noted = float(a.run.state().get(step.name, {}).get("seconds", 0.0))
    a.started = time.monotonic()
    a.run.note(step.name, a.before, False)
    a.log = (a.run.folder / LOG).open("ab")
    changed = {**a.environment, **step.environment}
    names = "".join(f"{name}={shlex.quote(value)} " for name, value in changed.items())
    line = f"cd {shlex.quote(str(step.folder))} && {names}{shlex.join(step.command)}"
    with (a.run.folder / "commands.txt").open("a", encoding="utf-8") as commands:
        commands.write(line + "\n")
    a.log.write(f"\n$ {line}\n".encode())
    a.log.flush()
    a.process = subprocess.Popen(
        step.command,
        cwd=step.folder,
        env={**os.environ, **changed, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=a.log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=[a.lock],  # held by the program too, which may outlive this process by a moment
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Have this program ended when the process that started it is killed (prctl, PR_SET_PDEATHSIG)."""
    assert _LIBC
    _LIBC.prctl(1, signal.SIGTERM)


def _end(active: Sequence[Active]) -> None:
    """End the programs, and what they have started."""
    until = time.monotonic() + GRACE
    for how in (signal.SIGTERM, signal.SIGKILL):
        for a in active:
            if a.process and a.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(a.process.pid, how)
        while any(a.process and a.process.poll() is None for a in active) and time.monotonic() < until:
            time.sleep(0.05)
    for a in active:
        a.run.note(a.steps[0].name, a.seconds, False)


def _lock(run: Run, console: Console) -> int:
    """A descriptor that locks the folder of the run; a program of a killed `compare` is waited for."""
    lock = os.open(run.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    until, told = time.monotonic() + GRACE, False
    while True:
        try:
            lock_file_now(lock)
            return lock
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(lock)
                raise ValueError(f"a program of an earlier compare still works in {run.folder}: end it first") from None
            if not told:
                console.print(f"{run.title}: waiting for a program of an earlier compare", highlight=False)
                told = True
            time.sleep(POLL)
        except OSError:  # there are no locks here
            return lock


def _title(a: Active) -> str:
    step = a.steps[0].name if a.steps else "done"
    return f"{a.run.title}: {step} on {'+'.join(a.devices)}"


@contextlib.contextmanager
def _bars(console: Console) -> Iterator:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bars:
        yield bars
