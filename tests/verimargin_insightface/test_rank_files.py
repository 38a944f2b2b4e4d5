import itertools
import os
import shutil

import killed
import pytest
import small_checkpoint as small
import torch
from verimargin_insightface import rank_files
from verimargin_insightface.rank_files import PARTIAL

STATE = small.whole()
HEAD_ALONE = {
    "epoch": 3,
    "global_step": 12,
    "state_dict_softmax_fc": {"weight": torch.ones(3, 2)},
}  # few places to kill


def saved(folder, ranks, mark, **more):
    """The files of one save of our head."""
    return small.write(folder, {**STATE, "verimargin": mark, **more}, ranks, layout=True)


def found(folder, **options):
    return rank_files.newest(folder, *rank_files.find(folder), **options)


def marks(folder):
    """The marks of the chosen files, in rank order."""
    return [torch.load(file.path)["verimargin"] for file in found(folder)]


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Upstream's torch.save in place left an empty or a cut file, and no run could be resumed from it."""
    before, folder = tmp_path / "before", tmp_path / "run"
    before.mkdir()
    torch.save({**HEAD_ALONE, "verimargin": "old"}, before / "checkpoint_gpu_0.pt")
    killed.copy_of(before, folder)
    seen, new, path = [], {**HEAD_ALONE, "verimargin": "new"}, folder / "checkpoint_gpu_0.pt"
    for _ in killed.kills(lambda: rank_files.save_whole(torch.save, new, path), folder):
        seen += marks(folder)
        killed.copy_of(before, folder)
    assert len(seen) > 5, "there were places to be killed at"
    assert set(seen) == {"old"}
    rank_files.save_whole(torch.save, new, path)
    assert marks(folder) == ["new"]
    assert [path.name for path in folder.iterdir()] == ["checkpoint_gpu_0.pt"]


def test_in_place_the_same_kills_leave_cut_files(tmp_path):
    """What `save_whole` is for: without it, the kills of the test above do harm."""

    def in_place():
        with open(tmp_path / "checkpoint_gpu_0.pt", "wb") as file:
            torch.save(HEAD_ALONE, file)

    harmed = sum(bool(rank_files.find(tmp_path)[1]) for _ in killed.kills(in_place, tmp_path))
    assert harmed > 3


def test_the_old_file_stays_when_a_save_fails(tmp_path):
    saved(tmp_path, 1, "old")

    def full(obj, file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        rank_files.save_whole(full, STATE, tmp_path / "checkpoint_gpu_0.pt")
    assert marks(tmp_path) == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


def states_of_a_save(ranks):
    """How far each rank can be at one moment: 0 before its partial file is whole, 1 after it, 2 after its rename, which
    no rank begins before all have their partial file."""
    for done in itertools.product(range(3), repeat=ranks):
        if 2 not in done or 0 not in done:
            yield done


@pytest.mark.parametrize(("before", "after"), [(3, 3), (3, 2), (2, 3), (3, 1), (1, 3), (0, 3)])
def test_whichever_rank_is_killed_a_whole_checkpoint_is_there(tmp_path, before, after):
    saved(tmp_path / "old", before, "old")
    saved(tmp_path / "new", after, "new", epoch=4)
    for done in states_of_a_save(after):
        run = tmp_path / "".join(map(str, done))
        shutil.copytree(tmp_path / "old", run)
        for rank, count in enumerate(done):
            partial = (tmp_path / "new" / f"checkpoint_gpu_{rank}.pt").read_bytes()
            name = run / f"checkpoint_gpu_{rank}.pt{'' if count == 2 else PARTIAL}"
            name.write_bytes(partial if count else partial[:2000])
        assert rank_files.resumable(run) == (before > 0 or 0 not in done)
        if not rank_files.resumable(run):
            continue
        chosen, files = marks(run), found(run)
        assert chosen in (["new"] * after, ["old"] * before)
        if done == (2,) * after or (before == after and 2 in done):
            assert chosen == ["new"] * after
        for rank in range(after):
            rank_files.finish(files, rank, after)
        assert not any(file.partial for file in found(run))
        assert marks(run) == chosen


def test_after_a_save_only_the_files_of_its_ranks_stay(tmp_path):
    saved(tmp_path, 5, "old")
    saved(tmp_path, 2, "new")
    (tmp_path / f"checkpoint_gpu_3.pt{PARTIAL}").write_bytes(b"")
    (tmp_path / "model.pt").write_bytes(b"")
    rank_files.remove_others(tmp_path, 1, 2)
    assert sorted(os.listdir(tmp_path)) == [*(f"checkpoint_gpu_{rank}.pt" for rank in (0, 1, 2, 4)), "model.pt"]
    rank_files.remove_others(tmp_path, 0, 2)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_gpu_0.pt", "checkpoint_gpu_1.pt", "model.pt"]


def test_a_new_run_is_not_mixed_with_the_old_one_of_the_same_step(tmp_path):
    """A run that began anew without the launcher was killed between the files of its ranks, after the same step."""
    run = tmp_path / "run"
    saved(run, 2, "old")
    saved(tmp_path / "new", 2, "new")
    shutil.copy(tmp_path / "new" / "checkpoint_gpu_0.pt", run)
    with pytest.raises(ValueError, match=r"checkpoint_gpu_1.pt is of another save than checkpoint_gpu_0.pt"):
        found(run)


def test_an_empty_folder_has_nothing_to_resume(tmp_path):
    assert not rank_files.resumable(tmp_path)
    assert not rank_files.resumable(tmp_path / "none")
    (tmp_path / "checkpoint_gpu_5.pt.partial").write_bytes(b"left by a kill in the first epoch")
    assert not rank_files.resumable(tmp_path)
    (tmp_path / "checkpoint_gpu_5.pt").write_bytes(b"damaged, which is found when it is opened")
    assert rank_files.resumable(tmp_path)


def test_a_share_of_the_files_is_looked_at(tmp_path):
    saved(tmp_path, 5, "x")
    assert [[file.rank for file in rank_files.find(tmp_path, rank, 2)[0]] for rank in range(2)] == [[0, 2, 4], [1, 3]]


def test_upstreams_files_are_found(tmp_path):
    small.write(tmp_path, STATE, 4)
    assert [(file.rank, file.rows, file.ranks) for file in found(tmp_path)] == [
        (0, 3, None), (1, 3, None), (2, 2, None), (3, 2, None)
    ]  # fmt: skip


def test_upstreams_files_of_an_earlier_run_on_more_ranks_are_told_apart_by_the_classes(tmp_path):
    small.write(tmp_path, STATE, 4)
    small.write(tmp_path, STATE, 2, epoch=1)
    with pytest.raises(ValueError, match=r"gpu_3.pt is of epoch 3, step 12, and checkpoint_gpu_0.pt of epoch 1, step"):
        found(tmp_path)
    assert [file.rows for file in found(tmp_path, classes=10)] == [5, 5]
    with pytest.raises(ValueError, match=r"5, 5 prototypes on 2 ranks are not the parts of one head of 12 classes"):
        found(tmp_path, classes=12)


def _remove(folder):
    (folder / "checkpoint_gpu_1.pt").unlink()


def _remove_first(folder):
    (folder / "checkpoint_gpu_0.pt").unlink()


def _empty(folder):
    (folder / "checkpoint_gpu_1.pt").write_bytes(b"")


def _epoch(folder):
    torch.save({**small.of_rank(STATE, 1, 3), "epoch": 2}, folder / "checkpoint_gpu_1.pt")


def _other_head(folder):
    torch.save({**small.of_rank(STATE, 0, 3)}, folder / "checkpoint_gpu_1.pt")
    torch.save({**small.of_rank(STATE, 1, 3)}, folder / "checkpoint_gpu_0.pt")


def _backbone(folder):
    torch.save(STATE["state_dict_backbone"], folder / "checkpoint_gpu_1.pt")


def _no_weight(folder):
    torch.save({**STATE, "state_dict_softmax_fc": {}}, folder / "checkpoint_gpu_1.pt")


def _all_gone(folder):
    shutil.rmtree(folder)
    folder.mkdir()


FAULTS = {
    _remove: "checkpoint_gpu_1.pt is missing",
    _remove_first: "checkpoint_gpu_0.pt is missing",
    _empty: "checkpoint_gpu_1.pt cannot be read as a checkpoint",
    _epoch: "checkpoint_gpu_1.pt is of epoch 2, step 12, and checkpoint_gpu_0.pt of epoch 3",
    _other_head: "3, 4, 3 prototypes on 3 ranks are not the parts of one head",
    _backbone: r"checkpoint_gpu_1.pt is no checkpoint that train_v2.py wrote with config.save_all_states",
    _no_weight: "checkpoint_gpu_1.pt has no prototypes",
    _all_gone: "it has no checkpoint_gpu_<rank>.pt",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_is_no_whole_checkpoint_is_refused(tmp_path, fault):
    small.write(tmp_path / "run", STATE, 3)
    fault(tmp_path / "run")
    with pytest.raises(ValueError, match=FAULTS[fault]) as refused:
        found(tmp_path / "run")
    assert "\n" not in str(refused.value)


def test_a_missing_last_rank_of_ours_is_noticed(tmp_path):
    """Its number of ranks is in the files; 3 and 3 of 10 classes on 4 ranks would pass for 6 classes on 2."""
    for rank, path in enumerate(small.write(tmp_path, STATE, 4, layout=True)):
        if rank > 1:
            path.unlink()
    with pytest.raises(ValueError, match=r"checkpoint_gpu_2.pt is missing"):
        found(tmp_path)


def test_a_file_of_an_older_format_opens(tmp_path):
    (path,) = small.write(tmp_path, STATE, 1)
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    small.assert_equal(rank_files.open_checkpoint(path), STATE)


class Runs:
    """Makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["of today", "of torch 1.5"])
def test_nothing_in_a_checkpoint_is_run(tmp_path, zipped):
    path = tmp_path / "checkpoint_gpu_0.pt"
    torch.save({"epoch": Runs(str(tmp_path / "made"))}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        rank_files.open_checkpoint(path)
    assert not (tmp_path / "made").exists()
