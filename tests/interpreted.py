"""How the Triton kernels are tested without a GPU: in Triton's interpreter, in a process of its own.

TRITON_INTERPRET has to be set before Triton is imported, and it would slow down whatever else uses Triton. So each test
file of the kernels tests the references when pytest runs it, and runs itself again in a process where the same
tests meet the kernels.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from verimargin.head.kernels.launch import INTERPRETED

ROOT = Path(__file__).resolve().parents[1]
KERNELS_MUST_RUN = pytest.mark.filterwarnings("error::verimargin.head.kernels.launch.KernelWarning")


def run_with_kernels(file):
    """Run the tests of a file again, with the kernels instead of the references."""
    if INTERPRETED:
        return  # this is that process
    if importlib.util.find_spec("triton") is None:
        pytest.skip("this torch comes without Triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def opcheck(op, *arguments):
    """The checks of torch.library; they cover the schema, the fake implementation and torch.compile's tracing."""
    import torch

    torch.library.opcheck(op, arguments)
