import hashlib
import os
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_networks import ENCODER, seeded
from torch import nn
from verimargin.files.networks import fingerprint, load_network


def test_a_fingerprint_tells_weights_and_shapes_apart():
    prints = [fingerprint(nn.Linear(2, 3)) for _ in range(2)]
    layer = nn.Linear(2, 3)
    before = fingerprint(layer)
    assert fingerprint(layer.requires_grad_(False).eval()) == before
    layer.weight.data = layer.weight.data.view(2, 3)
    prints += [before, fingerprint(layer), fingerprint(layer.double())]
    assert all(a != b for a, b in pairwise(sorted(prints)))


def test_a_fingerprint_is_of_the_weights_whatever_file_holds_them(tmp_path):
    torch.save(ENCODER.state_dict(), tmp_path / "embedding_model.ckpt")
    torch.jit.save(torch.jit.trace(ENCODER, torch.zeros(1, 2, 4)), tmp_path / "scripted.pt")
    assert (
        fingerprint(tmp_path / "embedding_model.ckpt") == fingerprint(tmp_path / "scripted.pt") == fingerprint(ENCODER)
    )
    torch.save({"epoch": 3, "weight": seeded(2)}, tmp_path / "checkpoint.pt")
    assert fingerprint(tmp_path / "checkpoint.pt") != fingerprint(tmp_path / "scripted.pt")
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none.ckpt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.pt", "does not exist"),
        ("net", "not known: give a TorchScript"),
        ("no_such_module:net", "cannot be imported"),
        ("json:net", "module json has no net"),
        ("json:__name__", "is a str"),
    ],
)
def test_networks_that_are_none_are_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_network(name)
    torch.save({}, "weights.pt")
    with pytest.raises(ValueError, match="no TorchScript file"):
        load_network("weights.pt")


@pytest.mark.parametrize("name", ["scripted.pt", "scripted.ts", "plain.onnx", "nets_of_this_test:net"])
def test_a_network_of_each_form_computes_as_itself_and_is_known_by_its_weights(name, tmp_path, monkeypatch):
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh()).train()
    monkeypatch.setitem(sys.modules, "nets_of_this_test", type("Nets", (), {"net": net}))
    monkeypatch.chdir(tmp_path)
    x = seeded(3, 4)
    with torch.no_grad():
        expected = net.eval()(x)
    if name.startswith("scripted"):
        torch.jit.save(torch.jit.script(net.train()), name)
    elif name.endswith("onnx"):
        pytest.importorskip("onnxruntime")
        axes = {"x": {0: "n"}}
        torch.onnx.export(net, (x[:1],), name, input_names=["x"], dynamic_axes=axes, dynamo=False)
    else:
        net.train()
    network, known = load_network(name)
    np.testing.assert_allclose(network(x).detach(), expected, atol=1e-6)  # without dropout
    assert known == (fingerprint(tmp_path / name) if name.endswith("onnx") else fingerprint(net))


def test_networks_whose_weights_are_constants_have_fingerprints_of_their_own(tmp_path):
    """A frozen TorchScript network has an empty state dict: all of them had the fingerprint of nothing."""
    known = set()
    for seed in range(2):
        torch.manual_seed(seed)
        frozen = torch.jit.freeze(torch.jit.script(nn.Linear(3, 2).eval()))
        torch.jit.save(frozen, tmp_path / f"{seed}.pt")
        known |= {fingerprint(tmp_path / f"{seed}.pt"), load_network(str(tmp_path / f"{seed}.pt"))[1]}
    assert len(known - {""}) >= 2
    assert hashlib.sha256().hexdigest() not in known


def test_a_callable_has_no_fingerprint_and_is_found_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "twice_of_this_test.py").write_text("def twice(x):\n    return 2 * x\n")
    network, known = load_network("twice_of_this_test:twice")
    assert known == ""
    assert network(torch.ones(2)).tolist() == [2.0, 2.0]


def test_an_onnx_file_of_two_inputs_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")

    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    ones = torch.ones(1), torch.ones(1)
    torch.onnx.export(Two(), ones, tmp_path / "two.onnx", input_names=["x", "y"], dynamo=False)
    with pytest.raises(ValueError, match=r"two\.onnx has the inputs \['x', 'y'\]: give a network with one input"):
        load_network(str(tmp_path / "two.onnx"))


def test_a_folder_is_no_encoder(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give its file"):
        fingerprint(tmp_path)


def test_damaged_onnx_files_are_named(tmp_path):
    """They gave the traceback of onnxruntime."""
    pytest.importorskip("onnxruntime")
    for content in (b"", b"no graph", b"\x08\x07\x12"):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.onnx is no ONNX file that can be run: .+"):
            load_network(str(tmp_path / "a.onnx"))
    axes = {"x": {0: "n"}}
    torch.onnx.export(
        ENCODER, (seeded(1, 2, 4),), tmp_path / "a.onnx", input_names=["x"], dynamic_axes=axes, dynamo=False
    )
    network, _ = load_network(str(tmp_path / "a.onnx"))
    with pytest.raises(ValueError, match=r"a\.onnx does not run on an input \(3, 2, 5\): .+"):
        network(seeded(3, 2, 5))


@pytest.mark.parametrize("name", ["a.pt", "a.onnx", "a"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (fingerprint, load_network) if "." in name else (fingerprint,):
        with pytest.raises(ValueError, match=f"{name} is a pipe or a device"):
            read(str(tmp_path / name))
