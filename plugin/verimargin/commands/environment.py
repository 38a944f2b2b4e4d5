"""The machine and the versions, for a bug report and for the reports of the commands."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "verimargin",
    "torch",
    "torchaudio",
    "torchvision",
    "numpy",
    "scipy",
    "speechbrain",
    "hyperpyyaml",
    "insightface",
    "mxnet",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "scikit-image",
)
CHECKOUTS = ("SPEECHBRAIN_HOME", "ARCFACE_TORCH_HOME")


def describe() -> dict[str, str]:
    """The names of what a reader needs to know about the machine, and the values."""
    import torch

    lines = {"Python": platform.python_version(), "platform": platform.platform()}
    lines |= {name: _version(name) for name in PACKAGES}
    lines["CUDA build of torch"] = torch.version.cuda or "none"
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    lines["GPUs"] = ", ".join(gpus) or "none"
    lines["CPU threads of torch"] = str(torch.get_num_threads())
    lines |= {name: os.environ.get(name, "not set") for name in CHECKOUTS}
    return lines


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
