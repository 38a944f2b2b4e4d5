import cv2
import numpy as np
import pytest
from small_drawn_faces import CORPUS, small_corpus
from verimargin_insightface.drawn_faces.corpus import Faces, contact_sheet, make_corpus, read_faces
from verimargin_insightface.drawn_faces.people import person
from verimargin_insightface.drawn_faces.photographs import photograph


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_a_seed_gives_the_same_bytes(tmp_path):
    first, again, other = (
        contents(small_corpus(tmp_path / name, seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first.keys() != other.keys() or first != other


def test_the_corpus_is_an_image_folder_of_the_sizes_asked_for(tmp_path):
    folder = small_corpus(tmp_path / "faces")
    train, test = read_faces(folder / "train"), read_faces(folder / "test")
    fewest, most = CORPUS["images"]
    sizes = np.bincount(train.labels)
    assert (len(sizes), len(test.names)) == (CORPUS["train_people"], CORPUS["test_people"])
    assert fewest <= sizes.min() < sizes.max() <= most
    assert (np.bincount(test.labels) == CORPUS["test_images"]).all()
    assert not set(train.names) & set(test.names)
    drawn = photograph(person(0, 1), 0, 1, 2)
    read = train.images[train.labels == 1][2]
    assert np.abs(read.astype(float) - drawn).mean() < 8  # JPEG
    assert (read[..., 0] == cv2.imread(str(folder / "train" / "p00001" / "02.jpg"))[..., 2]).all()  # RGB


def test_what_is_interrupted_leaves_no_corpus(tmp_path):
    made = make_corpus(tmp_path / "faces", **CORPUS, seed=0)
    next(made)
    made.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is not a folder"):
        read_faces(tmp_path / "faces" / "train")


def test_a_contact_sheet_has_a_row_for_each_person():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sheet = contact_sheet(Faces(images, np.array([0, 0, 1, 1, 1]), ["a", "b"]), 2, 3)
    assert sheet[::2, ::2, 0].tolist() == [[0, 1, 255], [2, 3, 4]]
