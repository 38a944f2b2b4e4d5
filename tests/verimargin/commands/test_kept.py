import json
import shutil

import pytest
from killed import kills
from verimargin.commands.kept import kept
from verimargin.files.whole import alone, whole, whole_folder


def write(text):
    def to(path):
        with whole(path) as partial:
            partial.write_text(text)

    return to


def made(folder, key, text="old", name="a.txt"):
    with kept(folder, "abc") as held:
        return held.make(name, key, "a text", write(text))


def test_is_made_once_for_one_key(tmp_path, capsys):
    one = made(tmp_path / "out", {"n": 1})
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'a.txt'}: a text\n"
    assert made(tmp_path / "out", {"n": 1}, "new") == one
    assert "a.txt: kept, a text" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    (tmp_path / "out" / "a.other.partial").touch()  # of embeddings that were interrupted
    assert made(tmp_path / "out", {"n": 2}, "new") != one
    assert "a.txt: made again, as its input has changed, a text" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert not (tmp_path / "out" / "a.other.partial").exists()
    (tmp_path / "out" / "a.txt").unlink()
    made(tmp_path / "out", {"n": 2}, "again")
    assert (tmp_path / "out" / "a.txt").read_text() == "again"


def test_what_is_no_longer_made_is_removed(tmp_path):
    made(tmp_path / "out", 1)
    (tmp_path / "out" / "mine.txt").touch()
    with kept(tmp_path / "out", "abc") as held:
        held.drop("a.txt")
        held.drop("mine.txt")  # not ours
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluate.json", "mine.txt"]
    made(tmp_path / "out", 1, "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"


def test_a_kill_never_leaves_an_old_file_for_a_new_key(tmp_path):
    def folder(text):
        def to(path):
            with whole_folder(path) as partial:
                for name in ("x", "y"):
                    (partial / name).write_text(text)

        return to

    def work(key):
        with kept(tmp_path / "out", "abc") as held:
            held.make("report", key, "a folder", folder(str(key)))

    work(1)
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    number = 0
    for number in kills(lambda: work(2), tmp_path / "out"):  # noqa: B007
        work(2)
        assert [(tmp_path / "out" / "report" / name).read_text() for name in ("x", "y")] == ["2", "2"]
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "before", tmp_path / "out")
    assert number > 10


@pytest.mark.parametrize("content", ["{", "[]", '{"encoder": "abc"}', '{"encoder": "abc", "files": 3}'])
def test_other_folders_are_refused(tmp_path, content):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file: give a folder"):
        made(tmp_path / "file", 1)
    with pytest.raises(FileExistsError, match="is not empty and holds no evaluation"):
        made(tmp_path, 1)
    (tmp_path / "evaluate.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluate\.json is damaged"):
        made(tmp_path, 1)
    (tmp_path / "evaluate.json").write_text(json.dumps({"encoder": "xyz", "files": {}}))
    with pytest.raises(ValueError, match=r"holds the evaluation of other weights \(xyz, these are abc\)"):
        made(tmp_path, 1)


def test_two_evaluations_in_one_folder_are_refused(tmp_path):
    with alone(tmp_path / "evaluate.json"), pytest.raises(ValueError, match="another process is writing"):
        made(tmp_path, 1)
