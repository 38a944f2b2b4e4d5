"""The installed `verimargin`, in a process of its own."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

installed = pytest.mark.skipif(not entry_points(group="verimargin.commands"), reason="verimargin is not installed")


def verimargin_command(*arguments, cwd=None):
    script = Path(sys.executable).with_name("verimargin")
    return subprocess.run([script, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
