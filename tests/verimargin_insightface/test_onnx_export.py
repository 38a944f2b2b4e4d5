import numpy as np
import pytest
import torch
from verimargin_insightface.onnx_export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")


class Net(torch.nn.Module):
    """Flattens by x.view(len(x), -1), in which a trace would fix the batch size of the example."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3, stride=2)
        self.relu = torch.nn.PReLU(4)
        self.linear = torch.nn.Linear(4 * 7 * 7, 5)
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, x):
        x = self.relu(self.convolution(x))
        return self.norm(self.linear(x.view(x.size(0), -1)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(8, 3, 16, 16))  # running statistics
    return net


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_equals_torch(net, tmp_path, batch):
    export_onnx(net, tmp_path / "net.onnx", image_size=16)
    assert net.training, "the network is left in its mode"
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [len(session.get_inputs()), len(session.get_outputs())] == [1, 1]
    image = torch.randn(batch, 3, 16, 16)
    with torch.no_grad():
        expected = net.eval()(image).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_is_left_of_a_failed_export(net, tmp_path):
    with pytest.raises(RuntimeError):
        export_onnx(net, tmp_path / "net.onnx", image_size=9)
    assert list(tmp_path.iterdir()) == []
    assert net.training
