import pytest
import torch
from small_kappa import saved, tracker
from verimargin.files.kappa_state import read_kappa


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds 0 KappaFace states"):
        read_kappa(saved(tmp_path, {"weight": torch.ones(2)}))
    with pytest.raises(ValueError, match="before the first epoch ended"):
        read_kappa(saved(tmp_path, tracker(epochs=0).state_dict()))
    with pytest.raises(ValueError, match="there are 2 names"):
        read_kappa(saved(tmp_path, tracker().state_dict()), ["a", "b"])
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors: give a checkpoint"):
        read_kappa(tmp_path / "text")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"head": s}, lambda s: {"epoch": 1, "a": {"b": s}}])
def test_the_state_is_found_anywhere_in_a_checkpoint(tmp_path, wrap):
    tracked = tracker()
    state = {f"kappa.tracker.{name}": value for name, value in tracked.state_dict().items()}
    rows = read_kappa(saved(tmp_path, wrap({**state, "weight": torch.ones(3)})), ["a", "b", "c", "d"])
    assert [row.class_id for row in rows] == [0, 1, 2, 3]
    assert [row.name for row in rows] == ["a", "b", "c", "d"]
    assert [row.samples for row in rows] == [9, 5, 2, 1]
    assert [row.kappa for row in rows] == tracked.kappa.tolist()
    assert [row.psi for row in rows] == tracked.psi.tolist()


def test_two_states_are_one_too_many(tmp_path):
    states = {f"{name}.{key}": value for name in "ab" for key, value in tracker().state_dict().items()}
    with pytest.raises(ValueError, match="holds 2 KappaFace states"):
        read_kappa(saved(tmp_path, states))


def test_the_folder_of_a_checkpoint_will_do(tmp_path):
    with pytest.raises(ValueError, match=r"has no kappa\.ckpt and no checkpoint_gpu_0\.pt: give the file"):
        read_kappa(tmp_path)
    torch.save(tracker().state_dict(), tmp_path / "kappa.ckpt")
    assert read_kappa(tmp_path) == read_kappa(tmp_path / "kappa.ckpt")


@pytest.mark.parametrize(
    "change",
    [{"psi": torch.ones(3)}, {"kappa": torch.ones(4, 1)}, {"epoch": torch.ones(2)}, {"psi": torch.tensor(1.0)}],
)
def test_a_damaged_state_is_named(tmp_path, change):
    with pytest.raises(ValueError, match=r"kappa\.ckpt has a damaged KappaFace state: epoch .*, psi .*"):
        read_kappa(saved(tmp_path, {**tracker().state_dict(), **change}))


def test_a_checkpoint_that_holds_itself_is_no_endless_search(tmp_path):
    content = {"a": {}, "b": tracker().state_dict()}
    content["a"]["back"] = content
    deep = {}
    for _ in range(60):
        deep = {"one": deep, "other": deep}
    content["deep"] = deep
    assert len(read_kappa(saved(tmp_path, content))) == 4
