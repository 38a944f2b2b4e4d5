"""Kill code at each of the places where it touches a file: what a kill -9 at any moment may leave."""

import builtins
import io
import os
import shutil
import sys

EVENTS = ("open", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "shutil.rmtree", "killed.write")


def kills(action, folder, limit=1000):
    """Run the action in forked processes that are killed at the first, second, ... touch of a file in the folder.

    After each of them the folder is as that kill has left it, for the caller to look at and to put back. The last
    process is not killed.
    """
    for n in range(limit):
        pid = os.fork()
        if pid == 0:
            _run(action, str(folder), n)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0, "the action failed"
            return
        yield n
    raise AssertionError("the action touches too many files")


def _run(action, folder, n):
    left = [n]

    def touch(event, arguments):
        if event in EVENTS and any(str(argument).startswith(folder) for argument in arguments):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), 9)

    try:
        _announce_writes()
        sys.addaudithook(touch)
        action()
        os._exit(0)
    except BaseException as error:
        print(f"the action failed: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def _announce_writes():
    """Make each file that is opened for writing tell before each write, and keep no bytes back in a buffer."""
    original = builtins.open

    def opened(path, mode="r", *args, **kwargs):
        file = original(path, mode, *args, **kwargs)
        return Announcing(file, path) if "w" in mode else file

    builtins.open = io.open = opened  # pathlib takes the second one


class Announcing:
    def __init__(self, file, path):
        self.file, self.path = file, path

    def write(self, data):
        sys.audit("killed.write", str(self.path))
        written = self.file.write(data)
        self.file.flush()
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __iter__(self):
        return iter(self.file)


def copy_of(folder, to):
    """Put a folder back as it was."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
