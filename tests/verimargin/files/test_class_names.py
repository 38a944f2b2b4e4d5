import pytest
from small_kappa import saved, tracker
from verimargin.files.class_names import read_class_names
from verimargin.files.kappa_state import read_kappa


def test_names_come_from_a_file_or_a_folder(tmp_path):
    path = saved(tmp_path, tracker().state_dict())
    assert [row.name for row in read_kappa(path)] == ["0", "1", "2", "3"]
    (tmp_path / "names").write_text("d\nc\nb\na\n")
    assert read_class_names(tmp_path / "names") == ["d", "c", "b", "a"]
    (tmp_path / "label_encoder.txt").write_text("'b b' => 1\n'a' => 0\n'c' => 2\n=====\n'starting_index' => 0\n")
    assert read_class_names(tmp_path / "label_encoder.txt") == ["a", "b b", "c"]
    for name in "dbca":
        (tmp_path / "faces" / name).mkdir(parents=True)
    assert [row.name for row in read_kappa(path, read_class_names(tmp_path / "faces"))] == [*"abcd"]


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_class_names(tmp_path / "none")


def test_lines_are_names_as_they_are(tmp_path):
    """Also those that look like an encoder's further down, and those of more than ten classes in an encoder's order."""
    (tmp_path / "names").write_text("ann\n'bob' => 0\nzoë\n", encoding="utf-8-sig")  # with a mark that is no name
    assert read_class_names(tmp_path / "names") == ["ann", "'bob' => 0", "zoë"]
    (tmp_path / "encoder").write_text("".join(f"'n{i}' => {i}\n" for i in (10, 2, 9, 0)))
    assert read_class_names(tmp_path / "encoder") == ["n0", "n2", "n9", "n10"]
    (tmp_path / "faces" / "b").mkdir(parents=True)
    (tmp_path / "faces" / "a.txt").touch()  # no class
    assert read_class_names(tmp_path / "faces") == ["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names has no names"),
        ("ann\n\nzoë\n", "line 2 of .*names has no name"),
        ("ann\nbob\nann\n", "has the name ann more than once"),
        ("'ann' => 0\n'ann' => 1\n", "has the name ann more than once"),
    ],
)
def test_names_that_classes_cannot_have_are_refused(tmp_path, text, message):
    (tmp_path / "names").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_class_names(tmp_path / "names")


def test_a_folder_without_folders_has_no_names(tmp_path):
    with pytest.raises(ValueError, match="has no subfolders: give the image folder"):
        read_class_names(tmp_path)
