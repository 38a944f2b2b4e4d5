import cv2
import numpy as np
import pytest
import torch
from small_faces import SIZE, people, recognition_model
from verimargin.files.networks import fingerprint
from verimargin_insightface.face_encoder import FaceEncoder

insightface = pytest.importorskip("insightface", reason="pip install --no-deps insightface")
onnxruntime = pytest.importorskip("onnxruntime")

LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)  # where insightface puts the five landmarks of an aligned face


class Detector:
    """Finds the faces that it is told of; the real detectors cannot be downloaded by a test."""

    taskname = "detection"

    def __init__(self, *corners):
        self.corners = corners

    def detect(self, image, max_num=0, metric="default"):
        boxes = [[x, y, x + 112 * scale, y + 112 * scale, 0.9] for x, y, scale in self.corners]
        points = [LANDMARKS * scale + [x, y] for x, y, scale in self.corners]
        return np.array(boxes, np.float32).reshape(-1, 5), np.array(points, np.float32).reshape(-1, 5, 2)


def analysis(recognition, detector):
    """A FaceAnalysis without a download."""
    finder = object.__new__(insightface.app.FaceAnalysis)
    finder.models = {"detection": detector, **({"recognition": recognition} if recognition else {})}
    finder.det_model, finder.addons, finder.det_size = detector, {}, (640, 640)
    return finder


@pytest.fixture
def model(tmp_path):
    return recognition_model(tmp_path / "model.onnx")


def test_an_aligned_face_is_embedded_as_in_training(tmp_path, model):
    """RGB, (pixel - 127.5) / 127.5, as `export_onnx` says."""
    path = people(tmp_path / "faces", ["a"]) / "a" / "0.png"
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    pixels = (rgb.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    (expected,) = session.run(None, {"data": pixels})
    encoder = FaceEncoder(model)
    for face in (path, str(path), cv2.imread(str(path))):
        np.testing.assert_allclose(encoder(face).numpy(), expected[0], atol=1e-5)
    assert (encoder.fingerprint, encoder.size) == (fingerprint(tmp_path / "model.onnx"), SIZE)


def test_a_face_analysis_finds_and_aligns_the_largest_face(tmp_path, model):
    crop = cv2.imread(str(people(tmp_path / "faces", ["a"]) / "a" / "0.png"))
    photo = np.zeros((400, 500, 3), np.uint8)
    photo[50:162, 200:312] = crop
    encoder = FaceEncoder(analysis(model, Detector((0, 0, 0.5), (200, 50, 1.0))))
    np.testing.assert_allclose(encoder(photo).numpy(), FaceEncoder(model)(crop).numpy(), atol=2e-2)
    (face, _) = sorted(analysis(model, Detector((200, 50, 1.0), (0, 0, 0.5))).get(photo), key=lambda f: -f.bbox[0])
    assert torch.equal(encoder(face), encoder(photo))


def test_a_folder_is_embedded_with_its_identities(tmp_path, model):
    folder, encoder = people(tmp_path / "faces", ["b", "a"], images=3), FaceEncoder(model)
    every = encoder.folder(folder)
    assert every.ids == [f"{name}/{n}.png" for name in "ab" for n in range(3)]
    assert every.labels == list("aaabbb")
    assert torch.equal(every.vectors[4], encoder(folder / "b" / "1.png"))
    one = encoder.folder(folder, per_identity=1, seed=3)
    assert one.labels == ["a", "b"]
    assert one.encoder == encoder.fingerprint == every.encoder


def test_what_is_no_face_is_named(tmp_path, model):
    folder, encoder = people(tmp_path / "faces", ["a"]), FaceEncoder(model)
    photo = people(tmp_path / "photos", ["a"], side=120) / "a" / "0.png"
    with pytest.raises(ValueError, match=r"photos/a/0\.png is 120 x 120, but a recognition model takes .* 112 x 112"):
        encoder(photo)
    with pytest.raises(ValueError, match=r"no face is found in .*photos/a/0\.png"):
        FaceEncoder(analysis(model, Detector()))(photo)
    with pytest.raises(ValueError, match=r"missing\.png does not exist"):
        encoder(tmp_path / "missing.png")
    (folder / "a" / "broken.png").write_bytes(b"PNG")
    with pytest.raises(ValueError, match=r"a/broken\.png holds 3 bytes that are not an image"):
        encoder.folder(folder)
    with pytest.raises(ValueError, match=r"the image is float64 of shape \(112, 112\)"):
        encoder(np.zeros((112, 112)))
    with pytest.raises(ValueError, match="the Face has no embedding"):
        encoder(insightface.app.common.Face(bbox=np.zeros(4)))


def test_models_of_another_kind_are_named(model):
    with pytest.raises(ValueError, match="the model is a NoneType"):
        FaceEncoder(None)
    with pytest.raises(ValueError, match="has detection, but no recognition model"):
        FaceEncoder(analysis(None, Detector()))
    unprepared = analysis(model, Detector())
    del unprepared.det_size
    with pytest.raises(ValueError, match="not prepared"):
        FaceEncoder(unprepared)
