import pytest
from verimargin_speechbrain.annotations import read_annotation, read_recordings

HEAD = "ID,wav,start,stop,spk_id\n"


def test_each_recording_once(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD + "x, 0.wav, 0, 9, ann\ny, 1.wav, 3, 9, bob\n")
    (tmp_path / "b.csv").write_text(HEAD + "y, 1.wav, 3, 9, bob\nz, 1.wav, 0, 3, bob\n")
    rows = read_recordings([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [row["ID"] for row in rows] == ["x", "y", "z"]
    assert rows[1] == {"ID": "y", "wav": "1.wav", "start": "3", "stop": "9", "spk_id": "bob"}
    (tmp_path / "b.csv").write_text(HEAD + "y, 1.wav, 4, 9, bob\n")
    with pytest.raises(ValueError, match=r"b\.csv has the ID y for another recording than before \(1\.wav, samples 3"):
        read_recordings([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_a_missing_file_or_column_is_named(tmp_path):
    (tmp_path / "bad.csv").write_text("ID,wav\nx,y\n")
    with pytest.raises(ValueError, match="has no column spk_id, start, stop"):
        read_annotation(tmp_path / "bad.csv")
    with pytest.raises(ValueError, match="does not exist"):
        read_annotation(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,wav,start,stop,spk_id\na,a.wav,0\n", "row 1 of .*bad.csv has more or fewer values"),
        ("ID,wav,start,stop,spk_id\na,a,b.wav,0,9,x\n", "row 1 of .*bad.csv has more or fewer values"),
        ("ID,wav,start,stop,spk_id\na,a.wav,0,9,x\nb,b.wav,0.5,9,x\n", "row 2 of .*bad.csv is samples '0.5' to '9'"),
        ("ID,wav,start,stop,spk_id\na,a.wav,9,9,x\n", "row 1 of .*bad.csv is samples '9' to '9'"),
        ("ID,wav,start,stop,spk_id\na," + "a" * 200_000 + ",0,9,x\n", "bad.csv is no CSV file: field larger"),
        ("ID,wav,start,stop,spk_id\na,\udcff,0,9,x\n", "bad.csv is not a text file"),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path, text, message):
    (tmp_path / "bad.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_annotation(tmp_path / "bad.csv")
