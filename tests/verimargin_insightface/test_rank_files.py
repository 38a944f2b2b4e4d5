import killed
import pytest
import torch
from verimargin_insightface import rank_files as core


def checkpoint(step):
    return {"epoch": step // 4, "global_step": step, "state_dict_backbone": {"weight": torch.full((64, 8), step)}}


def save(folder, rank, step, ending=""):
    torch.save(checkpoint(step), folder / f"checkpoint_gpu_{rank}.pt{ending}")


def steps(folder):
    return [core._step(path) for _, path in sorted(core.rank_files(folder).items())]


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Upstream's torch.save in place left an empty or a cut file, and no run could be resumed from it."""
    before, folder = tmp_path / "before", tmp_path / "run"
    before.mkdir()
    save(before, 0, 4)
    killed.copy_of(before, folder)
    found, count = set(), 0
    for _ in killed.kills(lambda: core.save_whole(torch.save, checkpoint(8), folder / "checkpoint_gpu_0.pt"), folder):
        core.settle(folder)
        found |= set(steps(folder))
        count += 1
        killed.copy_of(before, folder)
    assert count > 5, "there were places to be killed at"
    assert found == {4}
    core.save_whole(torch.save, checkpoint(8), folder / "checkpoint_gpu_0.pt")
    assert steps(folder) == [8]
    assert [path.name for path in folder.iterdir()] == ["checkpoint_gpu_0.pt"]


def test_in_place_the_same_kills_leave_cut_files(tmp_path):
    """What the fix is for: without it, the kills of the test above do harm."""

    def in_place():
        with open(tmp_path / "checkpoint_gpu_0.pt", "wb") as file:
            torch.save(checkpoint(8), file)

    harmed = 0
    for _ in killed.kills(in_place, tmp_path):
        harmed += (tmp_path / "checkpoint_gpu_0.pt").exists() and steps(tmp_path) == [None]
    assert harmed > 3


def test_the_old_file_stays_when_a_save_fails(tmp_path):
    save(tmp_path, 0, 4)

    def full(obj, file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        core.save_whole(full, checkpoint(8), tmp_path / "checkpoint_gpu_0.pt")
    assert steps(tmp_path) == [4]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("renamed", [(), (0,), (2,), (0, 1)])
def test_a_kill_between_the_ranks_renames_is_finished(tmp_path, renamed):
    """All partial files are whole before the first is renamed; ranks of two epochs would train on together."""
    for rank in range(3):
        save(tmp_path, rank, 8 if rank in renamed else 4)
        if rank not in renamed:
            save(tmp_path, rank, 8, core.PARTIAL)
    core.settle(tmp_path)
    assert steps(tmp_path) == [8 if renamed else 4] * 3


def test_the_first_epochs_checkpoint_is_finished_too(tmp_path):
    save(tmp_path, 0, 4)
    save(tmp_path, 1, 4, core.PARTIAL)
    core.settle(tmp_path)
    assert steps(tmp_path) == [4, 4]


def test_ranks_of_different_epochs_are_refused(tmp_path):
    save(tmp_path, 0, 8)
    save(tmp_path, 1, 4)
    (tmp_path / "checkpoint_gpu_1.pt.partial").write_bytes(b"PK cut short")
    with pytest.raises(ValueError, match=r"of different epochs \(rank 0 after step 8, rank 1 after step 4\)"):
        core.settle(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_cut_checkpoint_is_named(tmp_path, content):
    save(tmp_path, 0, 8)
    (tmp_path / "checkpoint_gpu_1.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint_gpu_1\.pt is cut short or damaged"):
        core.settle(tmp_path)


def test_an_empty_folder_has_nothing_to_settle(tmp_path):
    core.settle(tmp_path)
    core.settle(tmp_path / "none")
    (tmp_path / "checkpoint_gpu_5.pt.partial").write_bytes(b"left by a kill in the first epoch")
    core.settle(tmp_path)
    assert steps(tmp_path) == []
