import contextlib
import errno
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from small_disk import files_up_to
from verimargin.files import whole as module
from verimargin.files.embeddings import save_npz
from verimargin.files.whole import alone, check_room, new_file, whole, whole_folder, writing

WRITERS = {"whole": whole, "whole_folder": whole_folder, "alone": alone}


FORK = multiprocessing.get_context("fork")  # no import again in each process


def hold(kind, path, connection):
    with WRITERS[kind](path) as partial:
        if partial:
            (partial / "a.txt" if partial.is_dir() else partial).write_text("half")
        connection.send("inside")
        time.sleep(100)


@pytest.fixture
def another():
    """Start a process that holds one of these functions on a path; it can be killed."""
    begun = []

    def start(kind, path):
        here, there = FORK.Pipe()
        begun.append(FORK.Process(target=hold, args=(kind, path, there)))
        begun[-1].start()
        assert here.recv() == "inside"
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.join()


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


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path, another, kind):
    """Hidden files and folders stayed for ever."""
    process = another(kind, tmp_path / "out.txt")
    assert len(list(tmp_path.iterdir())) == {"whole": 1, "whole_folder": 2, "alone": 1}[kind]
    process.kill()
    process.join()
    (tmp_path / ".out.12345678.partial.csv").write_text("another output's")
    with WRITERS[kind](tmp_path / "out.txt") as partial:
        if partial:
            (partial / "a.txt" if partial.is_dir() else partial).write_text("all")
    left = {path.name for path in tmp_path.iterdir()} - {"out.txt"}
    assert left == {".out.12345678.partial.csv"}


@pytest.mark.parametrize("kind", ["whole_folder", "alone"])
def test_a_second_process_is_refused_at_once(tmp_path, another, kind):
    """Both computed, and the second one's result replaced the first one's, or failed at the end."""
    process = another(kind, tmp_path / "out.txt")
    before = sorted(tmp_path.iterdir())
    for writer in (whole_folder, alone) if kind == "alone" else (whole_folder,):
        refused = pytest.raises(ValueError, match=r"another process is writing .*out\.txt: wait until it has finished")
        with refused, writer(tmp_path / "out.txt"):
            raise AssertionError("not reached")
    with alone(tmp_path / "other.txt"):
        pass
    assert sorted(tmp_path.iterdir()) == before
    process.kill()
    process.join()
    with alone(tmp_path / "out.txt"):
        pass


def test_what_a_living_process_writes_is_not_removed(tmp_path, another):
    another("whole", tmp_path / "out.txt")
    (partial,) = tmp_path.iterdir()
    with whole(tmp_path / "out.txt") as mine:
        mine.write_text("mine")
    assert partial.read_text() == "half"
    assert (tmp_path / "out.txt").read_text() == "mine"


def take_turns(path):
    for _ in range(300):
        with contextlib.suppress(ValueError), alone(path):
            path.touch(exist_ok=False)
            path.unlink()


def test_one_of_many_gets_the_lock(tmp_path):
    """Also when its holder removes the file of the lock while others wait to open it."""
    others = [FORK.Process(target=take_turns, args=(tmp_path / "out",)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


def test_a_new_file_is_written_by_one_command(tmp_path):
    with writing(tmp_path / "a.npz", ".npz"), whole(tmp_path / "a.npz") as partial:
        partial.write_text("a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with pytest.raises(FileExistsError), writing(tmp_path / "a.npz", ".npz"):
        raise AssertionError("not reached")


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_place_where_nothing_can_be_written_is_found_first(tmp_path, monkeypatch, error):
    """The errors are made here: the tests may run as root, who may write anywhere, and cannot mount a full disk."""

    def refuse(path, flags, mode=0o777):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(os, "open", refuse)
    for writer in (alone, whole_folder):
        with pytest.raises(OSError, match=f"nothing can be written there: '{tmp_path}'"), writer(tmp_path / "out"):
            raise AssertionError("not reached")
    assert not list(tmp_path.iterdir())


def test_a_quota_that_is_used_up_is_found_first(tmp_path):
    """The disk has room, but not for us. The kernel's limit stands for the quota."""
    refused = pytest.raises(OSError, match=f"nothing can be written there: '{tmp_path}'")
    with files_up_to(0), refused, alone(tmp_path / "out"):
        raise AssertionError("not reached")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_found_first(tmp_path, monkeypatch):
    check_room(tmp_path / "a")
    with pytest.raises(OSError, match=r"/a needs 1,000,000,000,000,000 bytes, but its disk has only [\d,]+ left"):
        check_room(tmp_path / "a", 10**15)
    disk = type("Disk", (), {"free": 1000, "total": 10**12})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: disk)
    for writer in (alone, whole_folder):
        full = pytest.raises(OSError, match=r"out needs 1,048,576 bytes, but its disk has only 1,000 left")
        with full, writer(tmp_path / "out"):
            raise AssertionError("not reached")
    disk.free = disk.total = 0  # a drive that tells nothing
    with alone(tmp_path / "out"):
        pass


def test_an_error_in_the_middle_names_the_file_and_leaves_nothing(tmp_path):
    with files_up_to(10_000):
        write_too_much(tmp_path)
    assert not list(tmp_path.iterdir())


def write_too_much(tmp_path):
    with pytest.raises(OSError, match=r"File too large: '.*/a\.npz'"):
        save_npz(tmp_path / "a.npz", embeddings=np.ones(10_000))
    with pytest.raises(OSError, match=r"File too large: '.*/a\.txt'"), whole(tmp_path / "a.txt") as partial:
        partial.write_bytes(bytes(20_000))
    with pytest.raises(OSError, match=r"File too large: '.*/out'"), whole_folder(tmp_path / "out") as folder:
        Path(folder, "a.txt").write_bytes(bytes(20_000))


def write_again_and_again(folder):
    for n in range(10**6):
        with whole(folder / "a.txt") as partial:
            partial.write_text(f"{n:06}\n" * 2000)
        with whole_folder(folder / f"out{n}") as made:
            (made / "b.txt").write_text(f"{n:06}\n" * 2000)
        (folder / f"out{n}" / "b.txt").unlink()
        (folder / f"out{n}").rmdir()


def test_a_hundred_kills_lose_nothing_and_leave_nothing(tmp_path):
    pauses = np.random.default_rng(0).uniform(0.001, 0.02, 100)
    for pause in pauses:
        process = FORK.Process(target=write_again_and_again, args=(tmp_path,))
        process.start()
        time.sleep(pause)
        process.kill()
        process.join()
        if (tmp_path / "a.txt").exists():
            (line,) = set((tmp_path / "a.txt").read_text().splitlines())  # one of the texts, and all of it
            assert (tmp_path / "a.txt").stat().st_size == 7 * 2000
            assert len(line) == 6
    for folder in [path for path in tmp_path.iterdir() if not path.name.startswith(".") and path.is_dir()]:
        for file in folder.iterdir():  # killed before it was emptied
            file.unlink()
    left = {path.name.split(".")[1] for path in tmp_path.iterdir() if path.name.startswith(".")}
    for name in left - {"a"} | {path.name for path in tmp_path.glob("out*")}:
        with whole_folder(tmp_path / name):
            pass
    with whole(tmp_path / "a.txt") as partial:
        partial.write_text("all")
    assert not list(tmp_path.glob(".*"))
