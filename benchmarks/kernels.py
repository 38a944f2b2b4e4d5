"""What each Triton kernel of the head takes on a GPU, found by compiling it; no GPU is needed.

    python benchmarks/kernels.py [--batch 1024] [--classes 250000] [--size 512]

Prints, for an A100 (sm_80) and an H100 (sm_90): the shared memory of a program, the registers and the spilled bytes of
a thread, and the occupancy that follows, which is the share of an SM's warps that can be resident at a time. Each
kernel is compiled as the package launches it for these sizes. Timings need a GPU: benchmarks/head.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

try:
    import triton
except ImportError:
    raise SystemExit("Triton is not installed: it comes with torch for CUDA, and pip install triton adds it") from None
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from verimargin.head.kernels import gradients, launch, pairs, products, rounding, threshold

WARP = 32  # threads
REGISTERS = 65_536  # of 32 bits, per SM; a warp gets them in units of REGISTER_UNIT
REGISTER_UNIT = 256
PROGRAMS = 32  # resident per SM, at most
RESERVED = 1024  # bytes of shared memory that each program takes beside its own


@dataclass(frozen=True)
class Target:
    """The limits of an SM, from NVIDIA's tuning guides."""

    name: str
    capability: int
    shared: int  # bytes
    warps: int


TARGETS = (Target("A100", 80, 164 * 1024, 64), Target("H100", 90, 228 * 1024, 64))


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes."""

    kernel: str
    target: Target
    warps: int  # per program
    shared: int  # bytes per program
    registers: int  # per thread
    spilled: int  # bytes per thread, in what the compiler calls the stack and local memory

    @property
    def programs(self) -> int:
        """The number of programs that an SM holds at a time."""
        per_warp = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        return min(
            PROGRAMS,
            self.target.warps // self.warps,
            REGISTERS // per_warp // self.warps,
            self.target.shared // (self.shared + RESERVED),
        )

    @property
    def occupancy(self) -> float:
        return self.programs * self.warps / self.target.warps


class _Driver:
    """Stands in for a GPU that is not there: says for which one to compile."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, WARP)


@contextmanager
def compiling(target: Target) -> Iterator[list[Usage]]:
    """Within this context a launch on CPU tensors compiles the kernel for the target, and does not run it."""
    found: list[Usage] = []
    original = JITFunction.run

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        compiled = original(kernel, *arguments, grid=grid, warmup=True, **constants)
        found.append(usage(compiled, target))

    pretended = mock.patch.object(triton.runtime.driver, "_active", _Driver(target.capability))
    compiled_only = mock.patch.object(JITFunction, "run", run)
    with pretended, compiled_only, mock.patch.object(launch, "INTERPRETED", True):
        yield found


def usage(compiled: Any, target: Target) -> Usage:
    """Reads registers and spills from the machine code, with the tool that comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [str(tool), "--dump-resource-usage", str(file)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    values = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return Usage(
        compiled.metadata.name,
        target,
        compiled.metadata.num_warps,
        compiled.metadata.shared,
        values["REG"],
        values["STACK"] + values["LOCAL"],
    )


def calls(batch: int, classes: int, size: int) -> list[Callable[[], object]]:
    """One call of each operation, on tensors whose values don't matter."""
    unit, weight = torch.zeros(batch, size), torch.zeros(classes, size)
    e, w = (torch.zeros(len(rows), rounding.padded_size(rows)).half() for rows in (unit, weight))
    target = torch.zeros(batch, dtype=torch.long)
    e_error, residual, bound = torch.zeros(batch), torch.zeros(classes), torch.zeros(batch)
    words = torch.zeros(batch, launch.blocks(classes, products.COLUMNS), products.COLUMNS // products.GROUP).int()
    counts = words[:, :, 0].contiguous()
    n = 4 * gradients.PIECE
    row = column = torch.zeros(n, dtype=torch.long)
    values, norm, per_row = torch.zeros(n), torch.zeros(classes), torch.zeros(batch)
    pointer = torch.zeros(batch + 1, dtype=torch.long)
    return [
        lambda: rounding.round_rows(weight),
        lambda: products.group_maxima(e, w[::8], e_error, residual[::8], target, 32.0),
        lambda: products.mark(e, w, e_error, residual, bound, target),
        lambda: products.place(words, counts, counts.view(-1).cumsum(0), 1),
        lambda: pairs.pair_logits(unit, weight, norm, row, column, 32.0),
        lambda: threshold.threshold(values, pointer, per_row, per_row, 1.25),
        lambda: threshold.probabilities(values, pointer, per_row, per_row, 1.25),
        lambda: gradients.embedding_gradients(weight, norm, row, column, values, batch),
        lambda: gradients.prototype_gradients(unit, weight, norm, row, column, values),
    ]


def usages(batch: int, classes: int, size: int, target: Target) -> list[Usage]:
    with compiling(target) as found:
        for call in calls(batch, classes, size):
            call()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=250_000)
    parser.add_argument("--size", type=int, default=512)
    sizes = parser.parse_args()
    print(f"B {sizes.batch}, C {sizes.classes}, d {sizes.size}; triton {triton.__version__}, torch {torch.__version__}")
    print("| kernel | GPU | warps | shared, KiB | registers | spilled, bytes | programs per SM | occupancy |")
    print("|---|---|---|---|---|---|---|---|")
    for target in TARGETS:
        for one in usages(sizes.batch, sizes.classes, sizes.size, target):
            print(
                f"| {one.kernel} | {target.name} | {one.warps} | {one.shared / 1024:.1f} | {one.registers} "
                f"| {one.spilled} | {one.programs} | {one.occupancy:.0%} |"
            )


if __name__ == "__main__":
    main()
