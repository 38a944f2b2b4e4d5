"""Kill code at each of the places where it touches a file: what a kill -9 at any moment may leave."""

import builtins
import contextlib
import io
import os
import shutil
import sys

import torch

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
        if (
            event in EVENTS
            and not _reads(event, arguments)
            and any(str(argument).startswith(folder) for argument in arguments)
        ):
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


def _reads(event, arguments):
    """Whether a file is opened for reading, which changes nothing."""
    return event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)


def _announce_writes():
    """Make each file that is opened for writing tell before it writes, and keep no bytes back in a buffer."""
    original = builtins.open

    def opened(path, mode="r", *args, **kwargs):
        file = original(path, mode, *args, **kwargs)
        return Announcing(file, path) if "w" in mode else file

    builtins.open = io.open = opened  # pathlib takes the second one
    save = torch.save

    def saved(obj, f, *args, **kwargs):  # to a path torch would write without Python
        with contextlib.ExitStack() as stack:
            save(obj, f if hasattr(f, "write") else stack.enter_context(opened(f, "wb")), *args, **kwargs)

    torch.save = saved


class Announcing:
    """A file that tells before its first writes and every 16th one, as each leaves much the same: a file cut short."""

    def __init__(self, file, path):
        self.file, self.path, self.writes = file, path, 0

    def write(self, data):
        if self.writes < 2 or self.writes % 16 == 0:
            sys.audit("killed.write", str(self.path))
        self.writes += 1
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
