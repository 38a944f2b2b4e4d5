import pytest
from verimargin_insightface.commands.pack import pack_folder
from verimargin_insightface.image_folder import check_class_folders, images_of
from verimargin_insightface.registration import check_data
from verimargin_insightface.training_images import open_images


@pytest.fixture
def faces(tmp_path):
    for part in ("train/ann", "train/bob", "val/ann"):
        (tmp_path / "faces" / part).mkdir(parents=True)
        (tmp_path / "faces" / part / "0.jpg").touch()
    return tmp_path / "faces"


def test_classes_that_hold_only_folders_are_named_everywhere(faces):
    """train and val were packed, embedded and trained as two classes."""
    for read in (
        check_class_folders,
        lambda folder: pack_folder(folder, folder.parent / "out"),
        open_images,
        lambda folder: check_data(str(folder), 2),
    ):
        with pytest.raises(
            ValueError, match=r"faces/train would be one class, but holds only folders, such as (ann|bob)"
        ):
            read(faces)
    assert not (faces.parent / "out").exists()


def test_other_folders_pass(faces):
    check_class_folders(faces / "train")
    (faces / "train" / "empty").mkdir()
    (faces / "train" / "ann" / "more").mkdir()
    (faces / "train" / "notes.txt").touch()
    check_class_folders(faces / "train")


def test_the_images_of_a_folder_are_sorted_by_class_and_name(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/3.jpeg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in images_of(tmp_path)]
    assert found == ["a/3.jpeg", "b/1.JPG", "b/2.png"]
    with pytest.raises(ValueError, match="has no folder with images"):
        images_of(tmp_path / "a")
    with pytest.raises(ValueError, match="missing is not a folder"):
        images_of(tmp_path / "missing")
