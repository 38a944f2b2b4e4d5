import os
import shutil

import pytest
from small_images import COUNTS, LABELS, make
from verimargin_insightface.commands.pack import pack_folder
from verimargin_insightface.recordio import IRHeader, RecordWriter, pack
from verimargin_insightface.training_images import decode, open_images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize(("kind", "names"), [("folder", list(COUNTS)), ("rec", ["0", "1", "2"])])
def test_the_same_images_from_a_folder_and_a_set(data, kind, names):
    images = open_images(data / kind)
    assert images.names[images.labels].tolist() == [names[label] for label in LABELS]
    assert [int(decode(images.read(n))[0, 0, 0]) for n in range(8)] == [10 * n for n in range(8)]


def test_a_set_without_class_ranges(data, tmp_path):
    with RecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as writer:
        for key, label in enumerate([7, 5, 7]):
            image = (data / "folder" / "cid" / f"{key}.png").read_bytes()
            writer.write_idx(key, pack(IRHeader(0, float(label), key, 0), image))
    images = open_images(tmp_path)
    assert images.names[images.labels].tolist() == ["7", "5", "7"]
    assert len(set(images.ids)) == 3
    assert decode(images.read(1))[0, 0, 0] == 50


def test_damaged_input_is_named(data, tmp_path):
    """A pipe among the images was waited for."""
    shutil.copytree(data / "folder", tmp_path / "folder")
    (tmp_path / "folder" / "bea" / "0.png").unlink()
    os.mkfifo(tmp_path / "folder" / "bea" / "0.png")
    images = open_images(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"0\.png is a pipe or a device"):
        [images.read(n) for n in range(8)]
    with pytest.raises(ValueError, match=r"0\.png is a pipe or a device"):
        pack_folder(tmp_path / "folder", tmp_path / "packed")
    shutil.copytree(data / "rec", tmp_path / "rec")
    lines = (tmp_path / "rec" / "train.idx").read_text().splitlines(keepends=True)
    for lost in (4, len(lines) - 1):
        (tmp_path / "rec" / "train.idx").write_text("".join(lines[:lost] + lines[lost + 1 :]))
        with pytest.raises(ValueError, match=r"train\.idx has no record \d+, .*the index is not whole"):
            open_images(tmp_path / "rec")
