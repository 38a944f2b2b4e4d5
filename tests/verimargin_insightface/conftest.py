import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from upstream_runs import LAUNCHER, configure, losses

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


@pytest.fixture(scope="session")
def checkout(arcface_torch, tmp_path_factory) -> pathlib.Path:
    """A copy of the checkout's arcface_torch, to copy configs into."""
    copy = tmp_path_factory.mktemp("up") / "recognition" / "arcface_torch"
    shutil.copytree(arcface_torch, copy, ignore=shutil.ignore_patterns("docs", "__pycache__", "work_dirs"))
    return copy


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> pathlib.Path:
    """Four classes of eight noisy pictures each, as an image folder and as a RecordIO set with a .bin set."""
    import cv2
    from verimargin_insightface.commands.pack import pack_folder
    from verimargin_insightface.verification_set import write_bin

    out, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for name in "abcd":
        (out / "folder" / name).mkdir(parents=True)
        face = cv2.resize(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8), (112, 112))
        for i in range(8):
            noisy = cv2.add(face, rng.integers(0, 40, face.shape, dtype=np.uint8))
            assert cv2.imwrite(str(out / "folder" / name / f"{i}.jpg"), noisy)
    pack_folder(out / "folder", out / "rec")
    images = [path.read_bytes() for path in sorted((out / "folder").glob("*/*.jpg"))]
    pairs = [(images[i], images[j]) for i in range(0, 20, 2) for j in (i + 1, i + 8)]
    write_bin(out / "rec" / "pairs.bin", [image for pair in pairs for image in pair], [True, False] * 10)
    return out


@pytest.fixture(scope="session")
def resumed(python, checkout, faces):
    """The folders of a run of two epochs on two ranks, and of one that was stopped in its second and resumed."""
    whole, parts = checkout / "work" / "whole", checkout / "work" / "parts"
    config = configure(checkout, "whole", rec=str(faces / "rec"), val_targets=["pairs"])
    log = python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout)
    settings = {"rec": str(faces / "rec"), "output": str(parts)}
    config = configure(checkout, "stopped", **settings, stop=5)
    python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout)
    stopped = losses(parts, 0), losses(parts, 1)
    shutil.copytree(parts, checkout / "work" / "stopped")
    config = configure(checkout, "resumed", **settings, resume=True)
    python(*LAUNCHER, "train_v2.py", config, ranks=2, cwd=checkout)
    return whole, parts, stopped, log.stdout


@pytest.fixture(scope="session")
def model(python, checkout, resumed) -> pathlib.Path:
    """The folder of a trained model.pt, exported by upstream's torch2onnx.py."""
    folder = checkout / "work" / "model"
    folder.mkdir()
    shutil.copy(resumed[0] / "model.pt", folder)
    python(*LAUNCHER, "torch2onnx.py", folder / "model.pt", "--network", "mbf", cwd=checkout)
    return folder


@pytest.fixture(scope="session")
def in_checkout(arcface_torch):
    """Put upstream's modules and its python-package on the path of another process's code."""
    package = arcface_torch.resolve().parents[1] / "python-package"
    if not package.is_dir():
        pytest.skip(f"the checkout of {arcface_torch} has no python-package")
    return f"import sys; sys.path[:0] = [{str(arcface_torch)!r}, {str(package)!r}]\n"
