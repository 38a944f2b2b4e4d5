import pytest
from verimargin.files.whole import new_file, whole, whole_folder


def test_a_file_takes_its_name_when_it_is_written(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("before")
    with whole(path) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".csv"  # what writes by ending, such as NumPy and Matplotlib, adds none
        assert partial.name.startswith(".")
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing_and_spoils_nothing(tmp_path, error):
    path = tmp_path / "a.npz"
    path.write_text("before")

    def write_half(path):
        with whole(path) as partial:
            partial.write_text("half")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write_half(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(error, match="stop"):
        write_half(tmp_path / "new.npz")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "a.txt"):
        pass


def test_a_folder_takes_its_name_when_it_is_written(tmp_path):
    for existing in (False, True):
        path = tmp_path / "deep" / f"results{existing}"
        if existing:
            path.mkdir()  # an empty folder is no result
        with whole_folder(path) as partial:
            (partial / "a.txt").write_text("a")
            assert not path.exists() or not list(path.iterdir())
        assert [file.name for file in path.iterdir()] == ["a.txt"]
        assert path.stat().st_mode & 0o777 == 0o755
    assert len(list((tmp_path / "deep").iterdir())) == 2


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing(tmp_path, error):
    def write_half():
        with whole_folder(tmp_path / "out") as partial:
            (partial / "a.txt").write_text("a")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write_half()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    (path / "mine.txt" if kind == "folder" else path).write_text("mine")
    refused = pytest.raises(FileExistsError, match="out exists already: move it, or give another folder")
    with refused, whole_folder(path):
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_of_the_kind_and_in_a_folder_that_is_there(tmp_path):
    assert new_file(str(tmp_path / "a.npz"), ".npz") == tmp_path / "a.npz"
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"a\.pt has to be an \.npz file: give it that ending"):
        new_file(tmp_path / "a.pt", ".npz")
    with pytest.raises(ValueError, match="none is not a folder: make it first"):
        new_file(tmp_path / "none" / "a.npz", ".npz")
    (tmp_path / "a.npz").touch()
    with pytest.raises(FileExistsError, match="exists already: move it, or give another name"):
        new_file(tmp_path / "a.npz", ".npz")


def test_where_a_link_leads_is_replaced(tmp_path):
    """The link was replaced by a file, and what it led to stayed as it was."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("before")
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "a.txt")
    with whole(tmp_path / "link.txt") as partial:
        partial.write_text("after")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text() == "after"
    (tmp_path / "there" / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there" / "empty")
    with whole_folder(tmp_path / "out") as folder:
        (folder / "b.txt").write_text("b")
    assert (tmp_path / "there" / "empty" / "b.txt").read_text() == "b"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with whole(tmp_path / "a.txt") as one, whole(tmp_path / "a.txt") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.txt").read_text() == "one"  # renamed last
    assert len(list(tmp_path.iterdir())) == 1


def test_a_long_name_is_no_hindrance(tmp_path):
    with whole(tmp_path / ("a" * 250 + ".txt")) as partial:
        partial.write_text("a")


def test_the_working_directory_is_refused_at_once(tmp_path, monkeypatch):
    """It failed when all had been computed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="give another folder"), whole_folder("."):
        raise AssertionError("not reached")
