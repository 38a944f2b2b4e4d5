import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from verimargin.head.kernels import launch
from verimargin.head.kernels.launch import INTERPRETED, KernelWarning, has_kernels, run
from verimargin.head.kernels.rounding import round_rows, round_rows_reference

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
needs_triton = pytest.mark.skipif(not launch.AVAILABLE, reason="this torch comes without Triton")
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="this process interprets the kernels")


def python(*arguments, **environment):
    command = [sys.executable, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


@needs_triton
@not_interpreted
def test_the_tests_of_this_folder_with_the_kernels():
    """When pytest runs the other files, they test the references. Here they run again in a process of their own, in
    which Triton interprets the kernels on the CPU: TRITON_INTERPRET has to be set before Triton is imported.
    """
    files = [str(file) for file in sorted(HERE.glob("test_*.py"))]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_kernels_run_where_they_can():
    x = torch.zeros(2, 3)
    assert has_kernels(x) == INTERPRETED
    assert run(lambda: "kernels", lambda: "reference", x) == ("kernels" if INTERPRETED else "reference")


@pytest.mark.parametrize("x", [torch.zeros(2, 3).double(), torch.zeros(0, 3), torch.zeros(1, 4097)])
def test_what_kernels_cannot_take_goes_to_the_reference(x, monkeypatch):
    monkeypatch.setattr(launch, "AVAILABLE", True)
    monkeypatch.setattr(launch, "INTERPRETED", True)
    assert has_kernels(torch.zeros(1, 4096))
    assert run(lambda: "kernels", lambda: "reference", torch.zeros(2, 3), x) == "reference"


@needs_triton
@not_interpreted
def test_a_triton_that_does_not_work_gives_one_warning_and_the_same_result(monkeypatch):
    """There is no GPU for the kernel that this launches, so Triton raises an error."""
    monkeypatch.setattr(launch, "INTERPRETED", True)
    monkeypatch.setattr(launch._State, "failed", False)
    weight = torch.randn(4, 5)
    with pytest.warns(KernelWarning, match="plain PyTorch computes the same result"):
        found = round_rows(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = round_rows(weight)
    for one, two, expected in zip(found, again, round_rows_reference(weight)):
        assert torch.equal(one, expected)
        assert torch.equal(two, expected)


def test_an_error_of_memory_is_not_hidden(monkeypatch):
    monkeypatch.setattr(launch, "AVAILABLE", True)
    monkeypatch.setattr(launch, "INTERPRETED", True)

    def full():
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        run(full, lambda: "reference", torch.zeros(1))
    assert not launch._State.failed


@not_interpreted
def test_without_triton_the_references_run():
    code = """
import sys, torch
sys.modules["triton"] = None
from verimargin.head.kernels import fused, launch, rounding
assert not launch.AVAILABLE and not launch.INTERPRETED
print(rounding.round_rows(torch.ones(1, 4))[1])
"""
    done = python("-c", code, TRITON_INTERPRET="1")
    assert done.stdout.strip() == "tensor([2.])", done.stderr


@not_interpreted
def test_a_triton_that_cannot_be_imported_is_told_and_the_references_run(tmp_path):
    (tmp_path / "triton.py").write_text("raise ImportError('libcuda.so is not there')")
    code = "import torch; from verimargin.head.kernels import rounding; print(rounding.round_rows(torch.ones(1, 4))[1])"
    done = python("-c", code, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == "tensor([2.])", done.stderr
    assert "Triton is installed, but cannot be imported (ImportError: libcuda.so is not there)" in done.stderr


@pytest.mark.parametrize(
    ("version", "taken"), [("3.6.0", True), ("3.10.1+git1234", True), ("3.5.1", False), ("0.0", False)]
)
def test_only_versions_that_the_kernels_are_tested_with_are_taken(version, taken):
    assert launch.is_recent(version) == taken


@not_interpreted
def test_importing_the_package_imports_no_kernels():
    code = "import sys, verimargin; print([name for name in sys.modules if 'kernels' in name and 'verimargin' in name])"
    assert python("-c", code).stdout.strip() == "[]"


def test_sizes():
    assert [launch.power_of_two(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
    assert [launch.blocks(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("kernels_benchmark", ROOT / "benchmarks" / "kernels.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@needs_triton
@not_interpreted
@pytest.mark.parametrize("size", [512, 200])
def test_every_kernel_compiles_for_both_gpus_without_spills(benchmark, size):
    every = {
        name
        for module in (
            benchmark.rounding,
            benchmark.products,
            benchmark.pairs,
            benchmark.threshold,
            benchmark.gradients,
        )
        for name in vars(module)
        if name.endswith("_kernel")
    }
    for target in benchmark.TARGETS:
        usages = benchmark.usages(1024, 9000, size, target)
        assert {usage.kernel for usage in usages} == every
        assert {usage.kernel: usage.spilled for usage in usages if usage.spilled} == {}
        for usage in usages:
            assert usage.shared <= target.shared - benchmark.RESERVED
            assert 0 < usage.registers <= 255
        # what the choice of the tile rests on: two programs of eight warps share an SM
        tiles = [usage for usage in usages if usage.kernel in ("group_maxima_kernel", "mark_kernel")]
        assert [(usage.warps, usage.programs) for usage in tiles] == [(8, 2), (8, 2)]


@needs_triton
@not_interpreted
def test_occupancy_by_hand(benchmark):
    """96 KiB of 228 allow two programs; 128 registers x 32 x 8 warps = 32,768 of 65,536 allow two as well."""
    usage = benchmark.Usage("k", benchmark.TARGETS[1], warps=8, shared=96 * 1024, registers=128, spilled=0)
    assert (usage.programs, usage.occupancy) == (2, 0.25)
    assert benchmark.Usage("k", benchmark.TARGETS[1], 8, 0, 129, 0).programs == 1  # 136 after rounding to the unit
    assert benchmark.Usage("k", benchmark.TARGETS[1], 1, 0, 16, 0).programs == benchmark.PROGRAMS
