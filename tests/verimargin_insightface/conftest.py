import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("cv2", reason="the insightface extra is not installed")


@pytest.fixture(scope="session")
def arcface_torch() -> pathlib.Path:
    """A checkout's recognition/arcface_torch."""
    home = os.environ.get("ARCFACE_TORCH_HOME")
    if not home:
        pytest.skip("ARCFACE_TORCH_HOME does not name a checkout's recognition/arcface_torch")
    return pathlib.Path(home)


@pytest.fixture(scope="session")
def python():
    """Run this interpreter on the arguments and return the finished process; a failure shows its output."""

    def run(*arguments, check: bool = True, ranks: int | None = None, cwd=None, **environment: str):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
        command = [sys.executable, *torchrun, *map(str, arguments)]
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done

    return run
