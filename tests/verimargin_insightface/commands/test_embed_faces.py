import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from verimargin.files.networks import fingerprint
from verimargin_insightface.commands import embed_faces as module
from verimargin_insightface.commands.embed_faces import embed_faces, open_images
from verimargin_insightface.commands.pack import pack_folder
from verimargin_insightface.recordio import IRHeader, RecordWriter, pack

COUNTS = {"ann": 3, "bea": 1, "cid": 4}
LABELS = np.repeat(np.arange(3), list(COUNTS.values()))


class Mean(torch.nn.Module):
    """Three numbers, the mean of each channel over the left half, so that mirroring matters."""

    def forward(self, x):
        return x[..., :56].mean((2, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder, a set and an encoder. An image has n in the left and 200 in the right half of its class's channel."""
    out, n = tmp_path_factory.mktemp("embed"), 0
    for name, count in COUNTS.items():
        (out / "folder" / name).mkdir(parents=True)
        for i in range(count):
            image = np.zeros((112, 112, 3), np.uint8)
            image[:, :56] = 10 * n
            image[:, 56:, 0] = 200  # blue, the last channel of RGB
            assert cv2.imwrite(str(out / "folder" / name / f"{i}.png"), image)
            n += 1
    pack_folder(out / "folder", out / "rec")
    torch.jit.script(Mean()).save(str(out / "mean.pt"))
    return out


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


def test_a_set_without_class_ranges(data, tmp_path):
    with RecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as writer:
        for key, label in enumerate([7, 5, 7]):
            image = (data / "folder" / "cid" / f"{key}.png").read_bytes()
            writer.write_idx(key, pack(IRHeader(0, float(label), key, 0), image))
    images = open_images(tmp_path)
    assert images.names[images.labels].tolist() == ["7", "5", "7"]
    assert len(set(images.ids)) == 3
    assert module.decode(images.read(1))[0, 0, 0] == 50


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


def test_damaged_input_is_named(data, tmp_path):
    """Damaged .onnx files gave the traceback of onnx or of onnxruntime; a pipe among the images was waited for."""
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"a\.onnx is no whole ONNX file"):
        module._scales(tmp_path / "a.onnx")
    shutil.copytree(data / "folder", tmp_path / "folder")
    (tmp_path / "folder" / "bea" / "0.png").unlink()
    os.mkfifo(tmp_path / "folder" / "bea" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png is a pipe or a device"):
        embed_faces(tmp_path / "folder", data / "mean.pt", tmp_path / "out.npz")
    with pytest.raises(ValueError, match=r"0\.png is a pipe or a device"):
        pack_folder(tmp_path / "folder", tmp_path / "packed")
    shutil.copytree(data / "rec", tmp_path / "rec")
    lines = (tmp_path / "rec" / "train.idx").read_text().splitlines(keepends=True)
    for lost in (4, len(lines) - 1):
        (tmp_path / "rec" / "train.idx").write_text("".join(lines[:lost] + lines[lost + 1 :]))
        with pytest.raises(ValueError, match=r"train\.idx has no record \d+, .*the index is not whole"):
            open_images(tmp_path / "rec")
    assert not (tmp_path / "out.npz").exists()
