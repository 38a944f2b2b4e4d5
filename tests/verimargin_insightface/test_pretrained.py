"""config.pretrained, in a small script with upstream's calls."""

from pathlib import Path

import pytest
import small_train_v2 as small
import torch
import torch.distributed as dist
from distributed import on_ranks
from verimargin_insightface import register
from verimargin_insightface.rank_files import HEAD


def finished_run(rank, folder):
    """Train an epoch, and save as train_v2.py does."""
    with small.as_train_v2() as script:
        config = small.configuration(f"{folder}/faces", None)
        run = small.prepare(script, config)
        small.train(run, config, [0])
        state = {"state_dict_backbone": run.backbone.state_dict(), HEAD: run.head.state_dict(), "epoch": 1}
        script.torch.save({**state, "global_step": 9}, f"{folder}/run/checkpoint_gpu_{rank}.pt")
        if rank == 0:
            torch.save(run.backbone.state_dict(), f"{folder}/run/model.pt")
        return run.head.weight.detach()


def start(rank, folder, path, **more):
    with small.as_train_v2() as script:
        run = small.prepare(script, small.configuration(f"{folder}/faces", None, pretrained=path, **more), seed=5)
        return run.backbone.state_dict(), run.head.weight.detach()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    for name in "abcdef":
        (folder / "faces" / name).mkdir(parents=True)
    (folder / "run").mkdir()
    weights = on_ranks(2, finished_run, str(folder))
    torch.save(torch.cat(weights), folder / "weights.pt")
    return folder


def is_loaded(state, folder):
    saved = torch.load(folder / "run" / "model.pt")
    return all(torch.equal(state[name], saved[name]) for name in saved)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_folder_gives_the_backbone_and_the_prototypes_on_any_number_of_ranks(folder, ranks):
    results = on_ranks(ranks, start, str(folder), str(folder / "run"))
    assert all(is_loaded(state, folder) for state, _ in results)
    assert torch.equal(torch.cat([weight for _, weight in results]), torch.load(folder / "weights.pt"))


def test_a_model_gives_the_backbone_and_the_prototypes_are_new(folder):
    ((state, weight),) = on_ranks(1, start, str(folder), str(folder / "run" / "model.pt"))
    ((other, new),) = on_ranks(1, start, str(folder), None)
    assert is_loaded(state, folder)
    assert not is_loaded(other, folder)
    assert torch.equal(weight, new)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.pt", "none.pt', which is not there: give a model.pt or the output folder of a run"),
        ("faces", "faces holds no whole checkpoint.*or give its model.pt, to start with new prototypes"),
        ("weights.pt", "weights.pt is not the weights of a network"),
        ("run/checkpoint_gpu_0.pt", "is not the weights of a network: give a model.pt, or the folder of the run"),
        ("cut.pt", "cut.pt is damaged"),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_training(folder, path, message):
    (folder / "cut.pt").write_bytes((folder / "run" / "model.pt").read_bytes()[:100])
    config = small.configuration(folder / "faces", None, pretrained=str(folder / path))
    with small.as_train_v2(), pytest.raises(ValueError, match=message):
        register(config)


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_other_classes_and_networks_are_named(folder, one_rank, monkeypatch):
    with pytest.raises(ValueError, match=r"run has 6 classes, config.num_classes is 7: give the run's model.pt"):
        start(0, str(folder), str(folder / "run"), num_classes=7)
    monkeypatch.setitem(small.NAMES, "get_model", lambda name, **_: torch.nn.Linear(3, 4))
    with pytest.raises(ValueError, match=r"is of another network than config.network"):
        start(0, str(folder), str(folder / "run" / "model.pt"))


def with_subcenters(rank, folder):
    """A run with sub-centres, twice from its first epoch on; and a start from what `verimargin prune` leaves of it."""
    with small.as_train_v2() as script:
        run = small.prepare(script, config := small.configuration(f"{folder}/faces", None, subcenters=3))
        small.train(run, config, [0])
        before = small.checkpoint(run)
        losses = small.train(run, config, [1])
        small.restore(run, before)
        again = small.train(run, config, [1])
        if rank == 0:
            torch.save(run.backbone.state_dict(), f"{folder}/pruned/model.pt")
        dist.barrier()
    _, pruned = start(rank, folder, f"{folder}/pruned")
    return losses, again, run.head.weight.detach(), pruned


def test_subcenters_are_trained_resumed_and_pruned(folder):
    Path(folder, "pruned").mkdir()
    left = torch.arange(6.0 * small.SIZE).view(6, small.SIZE)
    torch.save({"weight": left}, folder / "pruned" / "prototypes.pt")
    results = on_ranks(2, with_subcenters, str(folder))
    for losses, again, weight, _ in results:
        assert losses == again
        assert weight.shape == (3, 3, small.SIZE)
    assert torch.equal(torch.cat([pruned for *_, pruned in results]), left)
