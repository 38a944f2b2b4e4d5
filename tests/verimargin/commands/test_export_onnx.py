import sys

import numpy as np
import pytest
import torch
from small_networks import Net, fitted, seeded
from verimargin.files import onnx as density_graph
from verimargin.files.scorers import write_regressor

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'verimargin[insightface]'")
pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
import onnxruntime
from verimargin.commands.export_onnx import export_onnx


@pytest.mark.parametrize("form", ["module", "torchscript", "onnx", "onnx of opset 20", "onnx of opset 13"])
def test_one_graph_gives_embedding_and_log_density(form, tmp_path):
    torch.manual_seed(0)
    net, regressor, out = Net(), fitted(), tmp_path / "both.onnx"
    write_regressor(tmp_path / "ssr.pt", regressor)
    if form == "module":
        density_graph.export_with_density(net, regressor, out, (3, 9, 9))
        assert net.training
    elif form == "torchscript":
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 9, 9)), tmp_path / "net.pt")
        export_onnx(str(tmp_path / "net.pt"), tmp_path / "ssr.pt", out, "3x9x9")
    else:
        opset = int(form.split()[-1]) if form[-1].isdigit() else 17
        export = density_graph.dynamic_batch(torch.onnx.export)
        export(net, torch.zeros(1, 3, 9, 9), tmp_path / "net.onnx", output_names=["feature"], opset_version=opset)
        export_onnx(str(tmp_path / "net.onnx"), tmp_path / "ssr.pt", out)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == [
        "feature" if "onnx" in form else "embedding",
        "log_density",
    ]
    for batch in (1, 5):
        x = seeded(batch, 3, 9, 9, seed=batch)
        embedding, log_density = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(embedding, net(x), atol=1e-5)
            np.testing.assert_allclose(log_density, regressor.log_density(net(x)), atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_what_has_no_graph_is_refused_and_the_score_is_explained(tmp_path, monkeypatch, capsys):
    write_regressor(tmp_path / "ssr.pt", fitted())
    nets = {"net": Net(), "function": lambda x: x}
    monkeypatch.setitem(sys.modules, "nets_of_export", type("Nets", (), nets))
    with pytest.raises(ValueError, match="nets_of_export:function is not a torch module: give one"):
        export_onnx(
            out=tmp_path / "a.onnx",
            encoder="nets_of_export:function",
            regressor=tmp_path / "ssr.pt",
            input_shape="3x9x9",
        )
    with pytest.raises(ValueError, match=r"input_shape is '3,9,9': give integers"):
        export_onnx(
            out=tmp_path / "a.onnx", encoder="nets_of_export:net", regressor=tmp_path / "ssr.pt", input_shape="3,9,9"
        )
    with pytest.raises(ValueError, match=r"does not take a sample of the shape 3x2x2 \(.*\): give the shape of one"):
        export_onnx(
            out=tmp_path / "a.onnx", encoder="nets_of_export:net", regressor=tmp_path / "ssr.pt", input_shape="3x2x2"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ssr.pt"]
    export_onnx(
        out=tmp_path / "a.onnx", encoder="nets_of_export:net", regressor=tmp_path / "ssr.pt", input_shape="3x9x9"
    )
    assert "the score of a pair is 1.5 * cosine + logaddexp of the two log densities" in capsys.readouterr().out
    assert onnxruntime.InferenceSession(tmp_path / "a.onnx").get_outputs()[1].shape == ["batch"]
    with pytest.raises(ValueError, match=r"--input-shape is 3x9x9, but .*a\.onnx has its own: leave it out"):
        export_onnx(
            out=tmp_path / "b.onnx", encoder=f"{tmp_path}/a.onnx", regressor=tmp_path / "ssr.pt", input_shape="3x9x9"
        )
