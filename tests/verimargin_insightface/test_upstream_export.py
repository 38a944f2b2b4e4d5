"""Upstream's own ONNX export and inference, unmodified, by the launcher: needs a checkout (ARCFACE_TORCH_HOME)."""

from upstream_runs import LAUNCHER
from verimargin.files.networks import fingerprint


def test_the_exported_backbone_equals_torch(python, model, in_checkout):
    code = """
import numpy as np, onnxruntime, torch
from backbones import get_model
net = get_model("mbf", fp16=False, num_features=512)
net.load_state_dict(torch.load("model.pt"))
net.eval()
session = onnxruntime.InferenceSession("model.onnx")
for batch in (1, 3):
    image = torch.rand(batch, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"data": image.numpy()})[0], net(image).numpy(), atol=1e-4)
"""
    python("-c", in_checkout + code, cwd=model)


def test_the_exported_file_counts_as_its_model(model):
    assert fingerprint(model / "model.onnx") == fingerprint(model / "model.pt")


def test_upstreams_onnx_classes_accept_it(python, model, in_checkout):
    code = """
import numpy as np
from onnx_helper import ArcFaceORT
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
ort = ArcFaceORT(".", cpu=True)
refused = ort.check()
assert refused is None or refused.startswith("max time cost exceed"), refused  # a slow machine is not the model's
onnx = ArcFaceONNX("model.onnx")
assert (ort.feat_dim, onnx.input_mean, ort.input_mean) == (512, 127.5, 127.5)
images = [np.random.randint(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(3)]
np.testing.assert_allclose(onnx.get_feat(images), ort.forward(images), atol=1e-4)
"""
    python("-c", in_checkout + code, cwd=model)


def test_inference(python, checkout, model):
    done = python(*LAUNCHER, "inference.py", "--network", "mbf", "--weight", model / "model.pt", cwd=checkout)
    assert len(done.stdout.replace("[", "").replace("]", "").split()) > 100
