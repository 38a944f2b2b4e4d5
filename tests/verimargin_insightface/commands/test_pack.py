import cv2
import numpy as np
import pytest
import verimargin_insightface.commands.pack as packing
from verimargin.files import whole
from verimargin.files.whole import alone
from verimargin_insightface.commands.pack import pack_folder
from verimargin_insightface.mxnet_names import imdecode
from verimargin_insightface.recordio import RecordError, RecordReader, class_count, unpack


@pytest.fixture
def folder(tmp_path):
    """Classes of 2, 1 and 3 images; the folder's order is not the order in which they are made."""
    rng = np.random.default_rng(0)
    for name, count in (("b", 1), ("a", 2), ("c", 3)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in reversed(range(count)):
            image = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / "images" / name / f"{i}.{'png' if i else 'jpg'}"), image)
    return tmp_path / "images"


def read(out):
    with RecordReader(out / "train.idx", out / "train.rec") as records:
        return {key: unpack(records.read_idx(key)) for key in records.keys}, class_count(records)


def test_layout_of_a_face_set(folder, tmp_path, capsys):
    pack_folder(folder, tmp_path / "out")
    records, classes = read(tmp_path / "out")
    assert list(records) == list(range(10))
    assert classes == 3
    assert records[0][0].label.tolist() == [7, 10]
    assert [records[key][0].label for key in range(1, 7)] == [0, 0, 1, 2, 2, 2]
    assert [records[key][0].label.tolist() for key in range(7, 10)] == [[1, 3], [3, 4], [4, 7]]
    names = ["a/0.jpg", "a/1.png", "b/0.jpg", "c/0.jpg", "c/1.png", "c/2.png"]
    assert [records[key][1] for key in range(1, 7)] == [(folder / name).read_bytes() for name in names]
    assert "num_classes = 3, config.num_image = 6" in capsys.readouterr().out


def test_a_set_too_large_for_float32_keys_has_no_header(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LARGEST_INDEX", 9)
    pack_folder(folder, tmp_path / "out")
    records, classes = read(tmp_path / "out")
    assert classes == 0
    assert [records[key][0].label for key in records] == [0, 0, 1, 2, 2, 2]


def test_another_size_is_refused(folder, tmp_path):
    assert cv2.imwrite(str(folder / "a" / "9.png"), np.zeros((100, 90, 3), np.uint8))
    with pytest.raises(ValueError, match=r"9.png is 90 x 100: align"):
        pack_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_image_is_named(folder, tmp_path):
    (folder / "a" / "9.png").write_bytes(b"no image")
    with pytest.raises(RecordError, match=r"9.png holds 8 bytes that are not an image"):
        pack_folder(folder, tmp_path / "out")


def test_a_damaged_image_of_a_set_is_named_by_its_index(folder, tmp_path):
    pack_folder(folder, tmp_path / "out")
    rec = tmp_path / "out" / "train.rec"
    image = (folder / "b" / "0.jpg").read_bytes()
    rec.write_bytes(rec.read_bytes().replace(image, bytes(len(image))))
    with (
        RecordReader(tmp_path / "out" / "train.idx", rec) as records,
        pytest.raises(RecordError, match=r"record 3 of .*train.rec holds"),
    ):
        imdecode(unpack(records.read_idx(3))[1])


def test_it_is_a_command(folder, tmp_path):
    typer, testing = pytest.importorskip("typer"), pytest.importorskip("typer.testing")
    app = typer.Typer()
    app.command()(pack_folder)
    done = testing.CliRunner().invoke(app, [str(folder), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert read(tmp_path / "out")[1] == 3


def test_what_cannot_be_packed_leaves_nothing(folder, tmp_path, monkeypatch):
    with alone(tmp_path / "train.rec"), pytest.raises(ValueError, match=r"another process is writing .*train\.rec"):
        pack_folder(folder, tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        pack_folder(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(whole.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 2**21, "total": 2**40}))
    monkeypatch.setattr(packing.Path, "stat", lambda path: type("Stat", (), {"st_size": 2**20}))
    with monkeypatch.context() as context:
        context.setattr(packing, "RecordWriter", None)  # refused before it writes
        with pytest.raises(OSError, match=r"train\.rec needs 6,291,456 bytes, but its disk has only 2,097,152 left"):
            packing._pack(folder, tmp_path)
