"""A limit to the size of files: the kernel refuses root too, and in the way it refuses to write on a full disk."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def files_up_to(size):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
