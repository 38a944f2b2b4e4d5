"""What the benchmarks share: times, peak memory, where a figure comes from, and the history of figures."""

from __future__ import annotations

import csv
import ctypes
import datetime
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import verimargin as vm
from verimargin.files.locks import lock_file_now

MIB = 2**20


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Whether this process has the lock, which another one may hold; until the end of the block, or of the process."""
    with lock.open("w") as file:
        try:
            lock_file_now(file)
        except BlockingIOError:
            yield False
        else:
            yield True


def provenance(device: torch.device) -> dict[str, str | int]:
    """What has to be known about a figure besides the sizes: when, with what, and on which processor."""
    return {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "verimargin": vm.__version__,
        "torch": torch.__version__,
        "processor": processor(device),
        "threads": torch.get_num_threads(),
    }


def revision() -> str:
    """The revision of the checkout, with a + if the package was changed since; empty if there is no checkout."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "plugin"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip() + "+" * (changed != 0)


def processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU as Linux gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown CPU"


def seconds(call: Callable[[], object], device: torch.device | None = None) -> float:
    """The time of a call; on a GPU until its kernels have run, including what it waits for between them."""
    if device is None or device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20 %, 50 % and 80 % quantiles."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return deciles[1], deciles[4], deciles[7]


def peak_of(call: Callable[[], object], device: torch.device | None = None) -> float:
    """The memory in MiB that a call needs in addition to what this process (or its GPU's memory) holds already."""
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the call could reuse memory that was freed earlier, without being seen
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak that was reached while the data were made
    call()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / MIB


def append_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Append rows to a CSV file, which gets a header if it is new.

    Raises:
        ValueError: the file has other columns than the rows.
    """
    columns = list(rows[0])
    check_columns(path, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a CSV file with other columns than these; a missing or an empty one is accepted."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        found = next(csv.reader(file), list(columns))
    if found != list(columns):
        raise ValueError(
            f"{path} has the columns {', '.join(found)}, the measurement {', '.join(columns)}: give another file, or "
            "move this one"
        )


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
