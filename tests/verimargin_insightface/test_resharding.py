import pytest
import small_checkpoint as small
import torch
from verimargin_insightface.resharding import ShardedCheckpoint

RANKS = [1, 2, 3, 4, 8]


@pytest.fixture(scope="module", params=[("sgd", None), ("sgd", "memory"), ("adamw", "momentum")], ids=str)
def written(request, tmp_path_factory):
    """A whole state, and its files for each number of ranks; without KappaFace as upstream writes them."""
    state, folder = small.whole(*request.param), tmp_path_factory.mktemp("run")
    return state, {n: small.write(folder / str(n), state, n, layout=request.param[1] is not None) for n in RANKS}


@pytest.mark.parametrize("before", RANKS)
@pytest.mark.parametrize("after", RANKS)
def test_any_number_of_ranks_opens_on_any_other(written, before, after):
    """Prototypes, momentum and KappaFace's state are those that the other number of ranks would have saved."""
    state, files = written
    checkpoint = ShardedCheckpoint(files[before])
    assert checkpoint.classes == small.CLASSES
    for rank in range(after):
        small.assert_equal(checkpoint.for_rank(rank, after), small.of_rank(state, rank, after))


def test_the_size_of_the_files_is_foreseen(written):
    _, files = written
    for after in RANKS:
        size = sum(file.stat().st_size for file in files[after])
        assert ShardedCheckpoint(files[4]).size_on(after) == pytest.approx(size, rel=0.1)


def test_the_layout_is_recorded_and_a_new_rank_gets_its_own_seed(tmp_path):
    files = small.write(tmp_path, small.whole(), 2, layout=True)
    heads = [ShardedCheckpoint(files).for_rank(rank, 3)["state_dict_softmax_fc"] for rank in range(3)]
    ours = [head._metadata[""]["verimargin"] for head in heads]
    assert [o["layout"] for o in ours] == [
        {"classes": 10, "ranks": 3, "rank": rank, "rows": rows} for rank, rows in enumerate([4, 3, 3])
    ]
    for rank in range(2):
        assert torch.equal(ours[rank]["random"]["cpu"], torch.Generator().manual_seed(rank).get_state())
    assert ours[2]["random"] == {"seed": 12 + 2}
    assert heads[0]._metadata[""]["version"] == 2


def test_what_differs_between_ranks_comes_from_the_rank_of_the_same_number(tmp_path):
    """BatchNorm's running statistics are those of each rank's own samples."""
    state = small.whole()
    files = small.write(tmp_path, state, 2)
    other = {**state["state_dict_backbone"], "1.running_mean": torch.full((small.SIZE,), 7.0)}
    torch.save({**small.of_rank(state, 1, 2), "state_dict_backbone": other}, files[1])
    checkpoint = ShardedCheckpoint(files)
    means = [checkpoint.for_rank(rank, 4)["state_dict_backbone"]["1.running_mean"] for rank in range(4)]
    assert [bool((mean == 7).all()) for mean in means] == [False, True, False, True]


def test_a_checkpoint_before_the_first_step_has_no_momentum(tmp_path):
    state = small.whole()
    state["state_optimizer"]["state"] = {}
    files = [tmp_path / f"{rank}.pt" for rank in range(2)]
    for file, weight in zip(files, state["state_dict_softmax_fc"]["weight"].split(5)):
        torch.save({**state, "state_dict_softmax_fc": {"weight": weight.clone()}}, file)
    new = ShardedCheckpoint(files).for_rank(0, 1)
    assert new["state_optimizer"]["state"] == {}
    assert torch.equal(new["state_dict_softmax_fc"]["weight"], state["state_dict_softmax_fc"]["weight"])


def test_keys_of_older_checkpoints_are_cut_too(tmp_path):
    state = small.whole(kappa="momentum")
    head = state["state_dict_softmax_fc"]
    for name in ("sums", "counts"):
        head[f"kappa.tracker.{name}"] = head.pop(f"kappa.tracker.estimator.{name}")
    new = ShardedCheckpoint(small.write(tmp_path, state, 3)).for_rank(1, 4)["state_dict_softmax_fc"]
    assert torch.equal(new["kappa.tracker.counts"], torch.arange(3, 6))


def test_a_weight_elsewhere_in_the_head_is_not_cut(tmp_path):
    """The slow copy of the backbone is whole on every rank, whatever its tensors are called."""
    state = small.whole(kappa="momentum")
    state["state_dict_softmax_fc"]["kappa.encoder.encoder.weight"] = torch.randn(6, small.SIZE)
    files = [tmp_path / f"{rank}.pt" for rank in range(2)]
    for rank, file in enumerate(files):
        part = small.of_rank(state, rank, 2)
        part["state_dict_softmax_fc"]["kappa.encoder.encoder.weight"] = torch.randn(6, small.SIZE)
        torch.save(part, file)
    new = ShardedCheckpoint(files).for_rank(0, 1)["state_dict_softmax_fc"]
    assert new["kappa.encoder.encoder.weight"].shape == (6, small.SIZE)


def test_more_ranks_than_classes_are_refused(tmp_path):
    checkpoint = ShardedCheckpoint(small.write(tmp_path, small.whole(), 2))
    checkpoint.check_ranks(10)
    with pytest.raises(ValueError, match=r"10 classes cannot be split over 11 ranks: give 1 to 10"):
        checkpoint.check_ranks(11)


@pytest.mark.parametrize("change", ["size", "optimizer", "kappa"])
def test_files_of_different_runs_are_refused(tmp_path, change):
    files = small.write(tmp_path, small.whole(), 2)
    other = {"optimizer": small.whole("adamw"), "kappa": small.whole(kappa="momentum")}.get(change, small.whole())
    part = small.of_rank(other, 1, 2)
    if change == "size":
        part["state_dict_softmax_fc"]["weight"] = torch.zeros(5, 3)
    torch.save(part, files[1])
    with pytest.raises(ValueError, match=r"checkpoint_gpu_1.pt has weight .*checkpoint_gpu_0.pt weight .*: give the"):
        ShardedCheckpoint(files)
