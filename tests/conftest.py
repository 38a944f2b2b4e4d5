import os
import sys

import pytest

# Before torch is imported, here and in what tests start: their tensors are small, and threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    remove_stand_ins()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    remove_stand_ins()  # a test before this one may have imported SpeechBrain


def remove_stand_ins():
    """SpeechBrain leaves stand-ins in sys.modules for optional packages, which raise when looked at.
    Hypothesis looks at every module once the tests are collected, and at new ones later."""
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            del sys.modules[name]
