import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verimargin.files import onnx_metadata as core
from verimargin.files.networks import fingerprint
from verimargin.files.onnx import dynamic_batch

PRINT = "f" * 64


@pytest.fixture
def exported(tmp_path):
    """A network, its state dict in a file, and its .onnx file."""
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).eval()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    dynamic_batch(torch.onnx.export)(net, torch.zeros(1, 3, 4, 4), str(tmp_path / "model.onnx"))
    return net, tmp_path / "model.pt", tmp_path / "model.onnx"


def test_a_model_and_its_onnx_file_are_one_encoder(exported):
    """They counted as two, so that anchors of the one were refused with the other (README's own way)."""
    net, weights, file = exported
    assert fingerprint(net) == fingerprint(weights) == fingerprint(file)


def test_it_survives_loading_and_saving_and_the_model_is_valid(exported, tmp_path):
    import onnx

    _, weights, file = exported
    model = onnx.load(file)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "again.onnx")
    assert fingerprint(tmp_path / "again.onnx") == fingerprint(weights)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [(core.KEY, fingerprint(weights))]


def test_with_its_density_it_is_still_the_encoder(exported, tmp_path):
    """The graph of `verimargin export-onnx` has the encoder's embeddings."""
    import verimargin as vm
    from verimargin.files.onnx import export_with_density

    _, weights, file = exported
    regressor = vm.SupportSetRegressor(16, 4)
    regressor.fit(torch.randn(50, 16), torch.rand(50) + 0.5, epochs=1)
    export_with_density(file, regressor, tmp_path / "joined.onnx")
    assert fingerprint(tmp_path / "joined.onnx") == fingerprint(weights)


def test_other_entries_are_passed_over_and_a_file_without_is_hashed(exported, tmp_path):
    import onnx

    model = onnx.load(exported[2])
    del model.metadata_props[:]
    model.metadata_props.add(key="other", value="x" * 300)
    onnx.save(model, tmp_path / "other.onnx")
    assert core.recorded_encoder(tmp_path / "other.onnx") is None
    before = fingerprint(tmp_path / "other.onnx")
    with (tmp_path / "other.onnx").open("r+b") as file:
        core.record_encoder(file, PRINT)
    assert fingerprint(tmp_path / "other.onnx") == PRINT != before


@given(st.binary(max_size=200), st.integers(0, 300))
def test_a_damaged_file_has_none_and_raises_nothing(tmp_path_factory, data, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    with path.open("wb+") as file:
        file.write(data)
        core.record_encoder(file, PRINT)
    os.truncate(path, min(cut, path.stat().st_size))
    assert core.recorded_encoder(path) in (None, PRINT)
