import cv2
import numpy as np
import pytest
from small_drawn_faces import CORPUS, TINY, read_faces, small_corpus
from verimargin_insightface.commands import demo, demo_content


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return read_faces(small_corpus(tmp_path_factory.mktemp("drawn") / "faces") / "test")


def test_the_content_is_that_of_the_faces(faces):
    trials = demo._all_pairs(faces)
    found = demo_content.content(faces, trials, {"seed": 7, "corpus": CORPUS, "recipe": TINY})
    assert "12 training people with 3 to 5 images each, 6 other people in the test, 18 target" in found.data
    assert "+config.loss = vm.q_margin(" in found.change
    assert (found.batch, found.settings["epochs"], found.settings["lr"]) == (8, 2, 0.1)
    sample = found.sample(4, "who")
    image = cv2.imdecode(np.frombuffer(sample.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (sample.caption, sample.kind, image.shape) == ("who", "image/jpeg", (112, 112, 3))
    assert np.abs(image.astype(int) - faces.images[4]).mean() < 6
    assert trials.samples[4] == f"{faces.names[1]}/01"


def test_the_sheet_shows_people_in_rows(faces, tmp_path):
    demo_content.write_sheet(tmp_path / "faces.png", faces)
    sheet = cv2.imread(str(tmp_path / "faces.png"))[..., ::-1]
    assert sheet.shape == (112 * 6, 112 * 3, 3)
    assert (sheet[112:224, 112:224] == faces.images[4]).all()
