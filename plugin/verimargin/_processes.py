"""Jobs in processes of their own, as many at once as there are CPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any

Send = Callable[[Any], None]


def run_each(
    target: Callable[..., None], jobs: Mapping[str, tuple], preload: Sequence[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Call ``target(*arguments, send)`` for each job, by its name, in a new process with one thread of torch.

    With one thread, sums are the same in each run. What a job sends is yielded as (name, message), and (name, None)
    when the job is done. The processes end with this one, also if it is killed.

    Args:
        target: a function of a module; preload: modules that all jobs import, which is then done once.

    Raises:
        ValueError: the one that a job has raised.
        RuntimeError: a job ended otherwise, with its name and the status of its process.
    """
    context = multiprocessing.get_context("forkserver")  # its processes are copies of one that has run no job
    context.set_forkserver_preload([target.__module__, *preload])
    waiting = list(jobs.items())[::-1]
    running: dict[connection.Connection, ForkServerProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < cpus():
                name, arguments = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                # A daemon ends when this process ends.
                process = context.Process(target=_run, args=(target, arguments, sender), name=name, daemon=True)
                _start(process)
                sender.close()  # so that the end of the process is the end of the messages
                running[receiver] = process
            for ready in connection.wait(list(running)):
                yield _received(ready, running)  # type: ignore[arg-type]
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(process: ForkServerProcess) -> None:
    """Start it without the main script, which each job would run again for nothing: its imports may take seconds."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main


def _received(
    receiver: connection.Connection, running: dict[connection.Connection, ForkServerProcess]
) -> tuple[str, Any]:
    name = running[receiver].name
    try:
        message = receiver.recv()
    except EOFError:
        process = running.pop(receiver)
        process.join()
        if process.exitcode:
            raise RuntimeError(
                f"the process of {name} ended with status {process.exitcode}: its error is above, or it was killed, "
                "as it is when the memory runs out"
            ) from None
        return name, None
    if isinstance(message, ValueError):
        raise message
    return name, message


def _run(target: Callable[..., None], arguments: tuple, sender: connection.Connection) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops it
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        target(*arguments, sender.send)
    except ValueError as error:
        sender.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
