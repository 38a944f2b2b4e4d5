import subprocess
import sys

import pytest
from verimargin.files.locks import lock_file, lock_file_now


def test_a_file_is_locked_until_it_is_closed(tmp_path):
    path = tmp_path / "file"
    with path.open("w") as first, path.open("w") as second:
        lock_file(first)
        with pytest.raises(BlockingIOError):
            lock_file_now(second)
        first.close()
        lock_file_now(second)


@pytest.mark.parametrize("package", ["verimargin.commands.score", "verimargin_insightface"])
def test_a_system_without_locks_is_told_what_works_there(package):
    """Windows: it said that there is no module named fcntl."""
    code = f"import sys; sys.modules['fcntl'] = None; import verimargin; print('the core works'); import {package}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "the core works\n"
    assert "need Linux, as this system has no fcntl: on Windows, install it in WSL" in ended.stderr
