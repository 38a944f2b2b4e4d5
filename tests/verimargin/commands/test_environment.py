import platform

import torch
from verimargin.commands.environment import describe


def test_names_the_versions_the_device_and_what_is_missing(monkeypatch):
    monkeypatch.setenv("SPEECHBRAIN_HOME", "/somewhere")
    monkeypatch.delenv("ARCFACE_TORCH_HOME", raising=False)
    monkeypatch.setattr("verimargin.commands.environment.PACKAGES", ("torch", "no-such-package"))
    lines = describe()
    assert lines["Python"] == platform.python_version()
    assert lines["torch"] == torch.__version__.split("+")[0]
    assert lines["no-such-package"] == "not installed"
    assert (lines["SPEECHBRAIN_HOME"], lines["ARCFACE_TORCH_HOME"]) == ("/somewhere", "not set")
    if not torch.cuda.is_available():
        assert lines["GPUs"] == "none"
