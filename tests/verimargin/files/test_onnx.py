import numpy as np
import pytest
import torch
import verimargin as vm
from small_networks import SIZE, Net, fitted, seeded
from verimargin.files import onnx as density_graph

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'verimargin[insightface]'")
onnxruntime = pytest.importorskip("onnxruntime")


def test_encoders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="embeddings have 8 numbers, the regressor's 5"):
        density_graph.export_with_density(Net(), fitted(5), tmp_path / "both.onnx", (3, 9, 9))
    with pytest.raises(ValueError, match="input_shape is missing"):
        density_graph.export_with_density(Net(), fitted(), tmp_path / "both.onnx")
    density_graph.export_with_density(Net(), fitted(), tmp_path / "both.onnx", (3, 9, 9))
    with pytest.raises(ValueError, match="has an output log_density already"):
        density_graph.export_with_density(tmp_path / "both.onnx", fitted(), tmp_path / "again.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["both.onnx"]


def test_a_trace_keeps_the_batch_size_open(tmp_path):
    torch.manual_seed(0)
    net = Net().eval()
    density_graph.dynamic_batch(torch.onnx.export)(net, torch.zeros(1, 3, 9, 9), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [entry.name for entry in (*session.get_inputs(), *session.get_outputs())] == ["data", "embedding"]
    for batch in (1, 4):
        x = seeded(batch, 3, 9, 9)
        np.testing.assert_allclose(session.run(None, {"data": x.numpy()})[0], net(x).detach(), atol=1e-5)


def test_the_density_of_a_graph_scores_pairs_as_the_regressor_does(tmp_path):
    torch.manual_seed(0)
    net, regressor = Net().eval(), fitted()
    density_graph.export_with_density(net, regressor, tmp_path / "both.onnx", (3, 9, 9))
    onnx.checker.check_model(onnx.load(tmp_path / "both.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "both.onnx", providers=["CPUExecutionProvider"])
    x = seeded(6, 3, 9, 9)
    embedding, density = map(torch.from_numpy, session.run(None, {"data": x.numpy()}))
    cosine = torch.cosine_similarity(embedding[:3], embedding[3:])
    scores = regressor.tau * cosine + torch.logaddexp(density[:3], density[3:])
    with torch.no_grad():
        wanted = regressor.score(net(x[:3]), net(x[3:]), log=True)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-5)


def test_a_regressor_that_is_not_fitted_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="not fitted"):
        density_graph.export_with_density(Net(), vm.SupportSetRegressor(SIZE, 4), tmp_path / "both.onnx", (3, 9, 9))
    with pytest.raises(ValueError, match=r"to be an \.onnx file"):
        density_graph.export_with_density(Net(), fitted(), tmp_path / "both.pt", (3, 9, 9))
    assert not list(tmp_path.iterdir())


def test_a_damaged_graph_is_named(tmp_path):
    for content in (b"", b"no graph", b"\x08\x07"):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.onnx is no whole ONNX file: .+"):
            density_graph.export_with_density(tmp_path / "a.onnx", fitted(), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
