import os
import sys

import pytest

# Before torch is imported, here and in what tests start: their tensors are small, and threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    """SpeechBrain leaves stand-ins in sys.modules for optional packages, which raise when looked at.
    Hypothesis looks at every module once the tests are collected."""
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            del sys.modules[name]
