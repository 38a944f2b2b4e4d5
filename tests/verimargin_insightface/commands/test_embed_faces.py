import json
import sys

import cv2
import numpy as np
import pytest
import torch
from small_images import COUNTS, LABELS, make
from verimargin.files.networks import fingerprint
from verimargin_insightface.commands import embed_faces as embed
from verimargin_insightface.commands.embed_faces import embed_faces


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(tmp_path_factory.mktemp("embed"))


def expected(n: np.ndarray) -> np.ndarray:
    left, right = np.stack([10.0 * n] * 3, 1), np.array([0.0, 0.0, 200.0])
    return (left - 127.5) / 127.5 + (right - 127.5) / 127.5


@pytest.mark.parametrize(("kind", "names"), [("folder", list(COUNTS)), ("rec", ["0", "1", "2"])])
def test_embeds_each_image_and_its_mirror_image(data, tmp_path, kind, names):
    embed_faces(data / kind, data / "mean.pt", tmp_path / "all.npz", batch_size=3)
    found = np.load(tmp_path / "all.npz")
    np.testing.assert_allclose(found["embeddings"], expected(np.arange(8)), atol=1e-5)
    assert found["labels"].tolist() == [names[label] for label in LABELS]
    assert str(found["encoder"]) == fingerprint(data / "mean.pt")
    assert json.loads(str(found["source"])) == {"data": kind, "per_identity": 0, "seed": 0}


def test_a_model_pt_of_train_v2(data, tmp_path, monkeypatch):
    (tmp_path / "backbones.py").write_text(
        "import torch\n"
        "def get_model(name, dropout, fp16):\n"
        "    assert name == 'mbf'\n"
        "    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))\n"
    )
    torch.save({"2.weight": torch.eye(2, 3), "2.bias": torch.tensor([0.0, 5.0])}, tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backbones", raising=False)
    embed_faces(data / "folder", tmp_path / "model.pt", tmp_path / "out.npz", network="mbf", per_identity=1)
    found = np.load(tmp_path / "out.npz")["embeddings"]
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 10.0, atol=1e-4)
    with pytest.raises(ValueError, match=r"model\.pt is no TorchScript file.*give --network"):
        embed_faces(data / "folder", tmp_path / "model.pt", tmp_path / "more.npz")


def test_an_onnx_file_that_scales_pixels_itself_gets_them_unscaled(data, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value, shape = onnx.helper.make_tensor_value_info, ["batch", 3, 112, 112]
    nodes = [
        onnx.helper.make_node("Sub", ["data", "centre"], ["x"], name="_minusscalar0"),
        onnx.helper.make_node("Mul", ["x", "scale"], ["y"], name="_mulscalar0"),
        onnx.helper.make_node("GlobalAveragePool", ["y"], ["z"], name="pool"),
        onnx.helper.make_node("Flatten", ["z"], ["embedding"], name="flat"),
    ]
    constants = [onnx.numpy_helper.from_array(np.float32(v), n) for n, v in (("centre", 127.5), ("scale", 1 / 128))]
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [value("data", onnx.TensorProto.FLOAT, shape)],
        [value("embedding", onnx.TensorProto.FLOAT, ["batch", 3])],
        constants,
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    embed_faces(data / "folder", tmp_path / "m.onnx", tmp_path / "out.npz")
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npz")["embeddings"], expected(np.arange(8)) * 127.5 / 128, atol=1e-4
    )


def test_goes_on_where_it_was_interrupted(data, tmp_path, monkeypatch):
    embed_faces(data / "folder", data / "mean.pt", tmp_path / "whole.npz", batch_size=3)
    read, done = embed.decode, []

    def interrupted(image):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(image)
        return read(image)

    with monkeypatch.context() as context:
        context.setattr(embed, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed_faces(data / "folder", data / "mean.pt", tmp_path / "out.npz", batch_size=3)
        assert len(list(tmp_path.glob("out.*.partial"))) == 1
        done[:] = [None]  # 4 more: one for its size, and 5 that are missing, are 2 more than are left
        with pytest.raises(KeyboardInterrupt):
            embed_faces(data / "folder", data / "mean.pt", tmp_path / "out.npz", batch_size=3)
    embed_faces(data / "folder", data / "mean.pt", tmp_path / "out.npz", batch_size=3)
    assert not list(tmp_path.glob("*.partial"))
    one, other = (np.load(tmp_path / name) for name in ("whole.npz", "out.npz"))
    np.testing.assert_array_equal(one["embeddings"], other["embeddings"])
    assert one["ids"].tolist() == other["ids"].tolist()


def test_what_cannot_be_read_is_named_and_nothing_is_left(data, tmp_path):
    (tmp_path / "bad" / "x").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "bad" / "x" / "0.png"), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(ValueError, match=r"0\.png is 60 x 50: align the faces"):
        embed_faces(tmp_path / "bad", data / "mean.pt", tmp_path / "out.npz")
    with pytest.raises(ValueError, match="is not a folder"):
        embed_faces(tmp_path / "none", data / "mean.pt", tmp_path / "out.npz")
    (tmp_path / "bad" / "train.rec").touch()
    with pytest.raises(ValueError, match=r"has only one of train\.rec and train\.idx"):
        embed_faces(tmp_path / "bad", data / "mean.pt", tmp_path / "out.npz")
    assert not list(tmp_path.glob("*.npz"))


def test_weights_of_another_network_are_refused(data, tmp_path, monkeypatch):
    get_model = "import torch\ndef get_model(name, dropout, fp16):\n    return torch.nn.Linear(3, 2)\n"
    (tmp_path / "backbones.py").write_text(get_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "backbones", raising=False)
    torch.save({"other": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"does not hold the weights of the network r50: give the model\.pt"):
        embed_faces(data / "folder", tmp_path / "model.pt", tmp_path / "out.npz", network="r50")
