import numpy as np
import pytest
import torch
import verimargin as vm
from torch import nn
from verimargin.commands.export_onnx import export_onnx
from verimargin.commands.train_ssr import train_ssr
from verimargin.files import onnx as onnx_graph
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.scorers import read_regressor, write_regressor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SIZE, CLASSES = 8, 40


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def training_set(tmp_path):
    """Embeddings near their class's anchor, which is left out of their support set."""
    centre, labels = seeded(CLASSES, SIZE), torch.arange(CLASSES).repeat(20)
    embeddings = centre[labels] + 0.6 * seeded(len(labels), SIZE, seed=1)
    np.savez(tmp_path / "train.npz", embeddings=embeddings.numpy(), labels=labels.numpy(), encoder="abc")
    names = [str(c) for c in range(CLASSES)]
    write_embeddings(tmp_path / "anchors.npz", Embeddings(names, centre, encoder="abc", source={"kind": "fc"}))
    return embeddings, labels, centre


def fitted(size=SIZE, tau=1.5):
    torch.manual_seed(0)
    f, regressor = seeded(200, size), vm.SupportSetRegressor(size, 16, k=4, tau=tau)
    regressor.fit(f, vm.IDAScorer(seeded(30, size, seed=2), 4, tau).density(f), epochs=3)
    return regressor


def test_train_ssr_fits_densities_without_the_own_anchor(training_set, tmp_path, capsys):
    embeddings, labels, centre = training_set
    out = tmp_path / "ssr.pt"
    train_ssr(out, tmp_path / "train.npz", tmp_path / "anchors.npz", k=5, tau=2.0, hidden=64, seed=3)
    assert "fitted to 800 embeddings, 800 of them with an anchor of their own" in capsys.readouterr().out
    regressor, scorer = read_regressor(out).scorer, vm.IDAScorer(centre, 5, 2.0)
    assert (regressor.k, regressor.tau) == (5, 2.0)
    predicted, others = regressor.log_density(embeddings), scorer.log_density(embeddings, labels)
    assert float((predicted - others).square().mean() / others.var()) < 0.3
    assert float((predicted - scorer.log_density(embeddings)).square().mean() / others.var()) > 1
    read_regressor(out).check_encoder("abc")
    with pytest.raises(ValueError, match="made with the encoder abc, but the embeddings with xyz"):
        read_regressor(out).check_encoder("xyz")
    with pytest.raises(FileExistsError, match="exists already"):
        train_ssr(out, tmp_path / "train.npz", tmp_path / "anchors.npz")


def test_files_of_other_encoders_or_kinds_are_refused(training_set, tmp_path):
    np.savez(tmp_path / "other.npz", embeddings=seeded(5, SIZE), labels=range(5), encoder="xyz")
    with pytest.raises(ValueError, match="made with the encoder abc, but the embeddings with xyz"):
        train_ssr(tmp_path / "ssr.pt", tmp_path / "other.npz", tmp_path / "anchors.npz")
    assert not (tmp_path / "ssr.pt").exists()
    torch.save({"weight": seeded(2, 2)}, tmp_path / "no.pt")
    with pytest.raises(ValueError, match="holds no regressor"):
        read_regressor(tmp_path / "no.pt")
    with pytest.raises(RuntimeError, match="not fitted"):
        write_regressor(tmp_path / "ssr.pt", vm.SupportSetRegressor(SIZE, 4))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4 * 4 * 4, SIZE)

    def forward(self, x):
        return self.linear(self.convolution(x).relu().view(x.size(0), -1))


@pytest.mark.parametrize("form", ["module", "torchscript", "onnx", "onnx of opset 20", "onnx of opset 13"])
def test_one_graph_gives_embedding_and_log_density(form, tmp_path):
    torch.manual_seed(0)
    net, regressor, out = Net(), fitted(), tmp_path / "both.onnx"
    write_regressor(tmp_path / "ssr.pt", regressor)
    if form == "module":
        onnx_graph.export_with_density(net, regressor, out, (3, 9, 9))
        assert net.training
    elif form == "torchscript":
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 9, 9)), tmp_path / "net.pt")
        export_onnx(out, str(tmp_path / "net.pt"), tmp_path / "ssr.pt", "3x9x9")
    else:
        opset = int(form.split()[-1]) if form[-1].isdigit() else 17
        export = onnx_graph.dynamic_batch(torch.onnx.export)
        export(net, torch.zeros(1, 3, 9, 9), tmp_path / "net.onnx", output_names=["feature"], opset_version=opset)
        export_onnx(out, str(tmp_path / "net.onnx"), tmp_path / "ssr.pt")
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


def test_encoders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="embeddings have 8 numbers, the regressor's 5"):
        onnx_graph.export_with_density(Net(), fitted(5), tmp_path / "both.onnx", (3, 9, 9))
    with pytest.raises(ValueError, match="input_shape is missing"):
        onnx_graph.export_with_density(Net(), fitted(), tmp_path / "both.onnx")
    onnx_graph.export_with_density(Net(), fitted(), tmp_path / "both.onnx", (3, 9, 9))
    with pytest.raises(ValueError, match="has an output log_density already"):
        onnx_graph.export_with_density(tmp_path / "both.onnx", fitted(), tmp_path / "again.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["both.onnx"]
