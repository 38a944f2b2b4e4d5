"""What the tests of the Triton kernels share. test_launch.py runs them with the kernels, in Triton's interpreter."""

import pytest
import torch
from verimargin.head.kernels.launch import INTERPRETED

# A kernel that does not run gives a warning and the result of its reference: here that is an error.
KERNELS_MUST_RUN = pytest.mark.filterwarnings("error::verimargin.head.kernels.launch.KernelWarning")


def opcheck(operation, *arguments):
    """torch's own checks of a custom operation: its schema, its fake implementation, and that it can be traced.

    They do not depend on how the operation is computed, so the interpreter need not repeat them.
    """
    if not INTERPRETED:
        torch.library.opcheck(operation, arguments)
