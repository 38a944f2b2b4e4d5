import sys

import numpy as np
import pytest
import torch
from small_images import Mean
from verimargin_insightface import backbone
from verimargin_insightface.backbone import load_encoder

BACKBONES = """
import torch
def get_model(name, dropout, fp16, num_features=2):
    if name != "mbf":
        raise ValueError()
    pooled = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*pooled, torch.nn.Linear(3, num_features))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working directory with a package `backbones`, as arcface_torch's folder is."""
    (tmp_path / "backbones.py").write_text(BACKBONES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backbones", raising=False)
    return tmp_path


def test_an_image_and_its_mirror_image_are_added(tmp_path):
    torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    images = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    left, right = (part.mean((1, 2)) for part in (images[:, :, :56].astype(float), images[:, :, 56:].astype(float)))
    found = load_encoder(tmp_path / "mean.pt")(images)
    np.testing.assert_allclose(found, (left + right - 255) / 127.5, atol=1e-5)


@pytest.mark.parametrize("size", [None, 5])
def test_a_state_dict_in_a_network_of_the_checkout(checkout, size):
    weight, bias = torch.randn(size or 2, 3), torch.randn(size or 2)
    torch.save({"2.weight": weight, "2.bias": bias}, checkout / "model.pt")
    images = np.full((1, 112, 112, 3), 255, np.uint8)
    found = load_encoder(checkout / "model.pt", "mbf", size=size)(images)
    torch.testing.assert_close(found[0], 2 * (weight.sum(1) + bias))


def test_a_network_that_is_unknown_or_of_other_weights_is_named(checkout):
    torch.save({"2.weight": torch.zeros(2, 3), "2.bias": torch.zeros(2)}, checkout / "model.pt")
    with pytest.raises(ValueError, match="does not know the network 'r500'"):
        load_encoder(checkout / "model.pt", "r500")
    with pytest.raises(ValueError, match="does not hold the weights of the network mbf"):
        load_encoder(checkout / "model.pt", "mbf", size=7)


def test_a_damaged_onnx_file_is_named(tmp_path):
    """It gave the traceback of onnx."""
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"a\.onnx is no whole ONNX file"):
        backbone._scales(tmp_path / "a.onnx")
