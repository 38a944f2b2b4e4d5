"""Saving and resuming in a small script with upstream's calls, on another number of ranks and after a kill."""

import os
import sys
import types

import pytest
import small_checkpoint
import small_train_v2 as small
import torch
import torch.distributed as dist
import verimargin as vm
from distributed import on_ranks
from verimargin_insightface import checkpointing
from verimargin_insightface.checkpointing import ScriptTorch

CASES = {  # config.kappa, config.loss
    "plain": (None, lambda: vm.q_margin(1.5, 10.0, 0.2)),
    "adaface": (None, lambda: vm.adaface(8.0, 0.4, h=5.0)),
    "quality": (None, lambda: vm.q_margin(1.5, 10.0, 0.2, vm.Quality(0.6, h=5.0))),
    "momentum": ({"momentum": 0.6}, lambda: vm.MarginLoss(vm.ArcMargin(0.8), scale=8.0)),
    "memory": ({"estimator": "memory"}, lambda: vm.MarginLoss(vm.QMargin(0.4), alpha=1.5, scale=10.0)),
}
BATCH = 6  # of all ranks together: then the same images are in a step, whatever the number of ranks
PARTS = {"backbone": "state_dict_backbone", "head": "state_dict_softmax_fc", "optimizer": "state_optimizer"}


class Images(torch.utils.data.Dataset):
    """Thirty images that do not change, so that 1, 2 and 3 ranks have the same number of them."""

    targets, classes = [n % 6 for n in range(30)], list("abcdef")

    def __getitem__(self, index):
        return torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(index)), self.targets[index]

    def __len__(self):
        return len(self.targets)


def loader(root_dir, local_rank, batch_size, *_):
    sampler = torch.utils.data.DistributedSampler(Images())
    return small.Loader(Images(), batch_size, sampler=sampler, drop_last=True)


def network(name, **_):
    """Without BatchNorm and dropout, which depend on the number of ranks."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 16), torch.nn.PReLU(), torch.nn.Linear(16, 8))


def averaged(gradient):
    dist.all_reduce(gradient)
    return gradient / dist.get_world_size()


class Run:
    """A run of the script for one case, as in upstream's main()."""

    def __init__(self, folder, case, resume=False):
        kappa, loss = CASES[case]
        (folder.parent / "faces" / "a").mkdir(parents=True, exist_ok=True)
        ranks, self.output = dist.get_world_size(), folder
        images = {"num_image": 30, "batch_size": BATCH // ranks}
        self.config = small.configuration(folder.parent / "faces", kappa, loss(), **images)
        self.path = os.path.join(folder, f"checkpoint_gpu_{dist.get_rank()}.pt")
        small.NAMES.update(get_dataloader=loader, get_model=network)
        with small.as_train_v2() as script:
            self.parts, self.script = small.prepare(script, self.config, seed=9 if resume else 0), script
            for parameter in self.parts.backbone.parameters():
                parameter.register_hook(averaged)
            if resume:
                self.load(script.torch.load(self.path))

    def load(self, checkpoint):
        self.loaded = checkpoint
        for part, key in PARTS.items():
            getattr(self.parts, part).load_state_dict(checkpoint[key])

    def train(self, *epochs):
        with small.as_train_v2():
            return small.train(self.parts, self.config, epochs)

    def save(self, epoch):
        self.output.mkdir(exist_ok=True)
        dist.barrier()
        states = {key: getattr(self.parts, part).state_dict() for part, key in PARTS.items()}
        self.script.torch.save({"epoch": epoch, "global_step": 5 * epoch, **states}, self.path)


def begin(folder, case):
    run = Run(folder, case)
    losses = run.train(0, 1)
    run.save(2)
    return losses, run


def go_on(folder, case):
    run = Run(folder, case, resume=True)
    losses = run.train(2, 3)
    run.save(4)
    return losses


def on_three(rank, folder):
    return {case: begin(folder / f"{case} 3", case)[0] for case in CASES}


def on_two(rank, folder):
    return {
        case: {
            "begun": begin(folder / f"{case} 2", case)[0],
            "1 to 2": go_on(folder / f"{case} 1", case),
            "3 to 2": go_on(folder / f"{case} 3", case),
        }
        for case in CASES
    }


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    names = dict(small.NAMES)
    yield
    small.NAMES.update(names)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(one_rank, tmp_path_factory):
    """The folder, the losses of an unbroken run, and those of the runs on other numbers of ranks."""
    folder, unbroken = tmp_path_factory.mktemp("runs"), {}
    for case in CASES:
        losses, run = begin(folder / f"{case} 1", case)
        unbroken[case] = losses + run.train(2, 3)
    three, two = on_ranks(3, on_three, folder), on_ranks(2, on_two, folder)
    return folder, unbroken, three, two


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("change", ["1 to 2", "3 to 2", "2 to 1"])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(runs, case, change):
    """Up to the order of the sums, whose relative error a training of twenty steps hardly amplifies."""
    folder, unbroken, three, two = runs
    assert len(unbroken[case]) == 20
    assert len(set(unbroken[case])) == 20
    begun = {"1 to 2": unbroken[case][:10], "3 to 2": three[0][case], "2 to 1": two[0][case]["begun"]}[change]
    torch.testing.assert_close(begun, unbroken[case][:10], rtol=2e-5, atol=0)
    found = go_on(folder / f"{case} 2", case) if change == "2 to 1" else two[1][case][change]
    torch.testing.assert_close(found, unbroken[case][10:], rtol=1e-4, atol=0)


@pytest.mark.parametrize("before", ["1", "3"])
def test_only_the_files_of_the_new_ranks_stay(runs, before):
    assert sorted(os.listdir(runs[0] / f"plain {before}")) == ["checkpoint_gpu_0.pt", "checkpoint_gpu_1.pt"]


def test_margins_and_settings_are_resumed_as_well(one_rank, tmp_path):
    """The state that our head keeps in the metadata, through files of two ranks."""
    _, run = begin(tmp_path / "run", "memory")
    run.parts.head.loss.margin.m = 0.3
    run.save(2)
    whole = torch.load(run.path)
    for rank in range(2):
        part = small_checkpoint.of_rank(whole, rank, 2, layout=True)
        ours, saved = (x["state_dict_softmax_fc"]._metadata[""]["verimargin"] for x in (part, whole))
        ours |= {name: saved[name] for name in ("loss", "settings")}
        torch.save(part, tmp_path / "run" / f"checkpoint_gpu_{rank}.pt")
    again = Run(tmp_path / "run", "memory", resume=True)
    assert again.parts.head.loss.margin.m == 0.3
    metadata = again.loaded["state_dict_softmax_fc"]._metadata[""]["verimargin"]
    assert metadata["settings"]["MarginLoss.scale"] == 10.0
    small_checkpoint.assert_equal(again.loaded["state_dict_softmax_fc"], whole["state_dict_softmax_fc"])
    small_checkpoint.assert_equal(again.parts.optimizer.state_dict(), whole["state_optimizer"])
    assert torch.equal(again.parts.head.loss.margin.psi, run.parts.head.kappa.tracker.psi)


def test_upstreams_files_resume_on_another_number_of_ranks(one_rank, tmp_path):
    state = small_checkpoint.whole(classes=6)
    small_checkpoint.write(tmp_path, state, 4)
    found = checkpointing.load(tmp_path / "checkpoint_gpu_0.pt", {"num_classes": 6})
    small_checkpoint.assert_equal(found, small_checkpoint.of_rank(state, 0, 1))


def test_a_checkpoint_of_other_classes_is_refused(one_rank, tmp_path):
    small_checkpoint.write(tmp_path, small_checkpoint.whole(), 4, layout=True)
    with pytest.raises(ValueError, match=r"has 10 classes, config.num_classes is 12: resume with the data"):
        checkpointing.load(tmp_path / "checkpoint_gpu_0.pt", {"num_classes": 12})


def test_without_a_checkpoint_it_says_so(one_rank, tmp_path):
    with pytest.raises(ValueError, match=r"holds no whole checkpoint: it has no checkpoint_gpu_<rank>.pt"):
        checkpointing.load(tmp_path / "checkpoint_gpu_0.pt", {"num_classes": 12})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"batch_size": 100}, {"total_iters": 40, "warmup_iters": 0, "last_epoch": 12}),
        ({"batch_size": 50}, {"total_iters": 80, "warmup_iters": 8, "last_epoch": 24}),
        ({"batch_size": 50, "num_epoch": 20}, {"total_iters": 160, "warmup_iters": 8, "last_epoch": 24}),
        ({}, {"total_iters": 40, "warmup_iters": 0, "last_epoch": 12}),
    ],
)
def test_the_learning_rate_follows_the_steps_of_the_new_ranks(one_rank, tmp_path, config, expected, caplog):
    """By the steps of twice as many ranks, it was 0 from the middle of the training on."""
    small_checkpoint.write(tmp_path, small_checkpoint.whole(), 2, layout=True)
    config = {"num_classes": 10, "num_image": 400, "num_epoch": 10, "warmup_epoch": 1, **config}
    checkpoint = checkpointing.load(tmp_path / "checkpoint_gpu_0.pt", config)
    schedule, groups = checkpoint["state_lr_scheduler"], checkpoint["state_optimizer"]["param_groups"]
    assert schedule == {**expected, "power": 2.0, "base_lrs": [0.1, 0.1], "_last_lr": schedule["_last_lr"]}
    if expected["total_iters"] != 40:  # the schedule multiplies the learning rate that it finds: it stayed near 0
        done, all_steps = (expected[name] - expected["warmup_iters"] for name in ("last_epoch", "total_iters"))
        wanted = [pytest.approx(0.1 * (1 - done / all_steps) ** 2)] * 2
        assert schedule["_last_lr"] == [group["lr"] for group in groups] == wanted
    assert ("the learning rate goes on from epoch 3 of the new" in caplog.text) == (expected["total_iters"] != 40)


def test_the_scripts_own_settings_count(one_rank, tmp_path, monkeypatch):
    """The config may leave some out that configs/base.py has."""
    small_checkpoint.write(tmp_path, small_checkpoint.whole(), 2, layout=True)
    config = {"num_classes": 10, "num_image": 400, "num_epoch": 10, "warmup_epoch": 0}
    base = types.SimpleNamespace(config={**config, "batch_size": 50})
    monkeypatch.setitem(sys.modules, "configs.base", base)
    assert checkpointing.load(tmp_path / "checkpoint_gpu_0.pt", config)["state_lr_scheduler"]["total_iters"] == 80


def test_all_else_is_torchs(one_rank, tmp_path):
    script_torch = ScriptTorch({})
    assert script_torch.nn is torch.nn
    for name in ("model.pt", "checkpoint_gpu_1.pt"):  # of another rank
        script_torch.save({"a": torch.ones(2)}, tmp_path / name)
        assert torch.load(tmp_path / name).keys() == {"a"}
        assert torch.equal(script_torch.load(tmp_path / name)["a"], torch.ones(2))
    with (tmp_path / "open").open("wb") as file:
        script_torch.save([1], file)
    assert not hasattr(script_torch, "nothing")


def killed_while_saving(rank, folder):
    _, run = begin(folder, "memory")
    run.train(2)
    if rank == 1:
        os.replace = lambda *_: os._exit(9)
    run.save(3)


def resumed(rank, folder):
    run = Run(folder, "memory", resume=True)
    epoch = run.loaded["epoch"]
    run.train(3)
    run.save(4)
    return epoch


@pytest.mark.slow
def test_a_kill_between_the_files_of_two_ranks_loses_nothing(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessExitedException):
        on_ranks(2, killed_while_saving, tmp_path / "run")
    assert "checkpoint_gpu_1.pt.partial" in os.listdir(tmp_path / "run")
    assert on_ranks(2, resumed, tmp_path / "run") == [3, 3]
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint_gpu_0.pt", "checkpoint_gpu_1.pt"]
