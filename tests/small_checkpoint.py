"""Checkpoints of train_v2.py in small, written for any number of ranks from one whole state."""

from collections import OrderedDict

import torch

CLASSES, SIZE, SAMPLES = 10, 4, 23


def sizes(total, ranks):
    return [total // ranks + (rank < total % ranks) for rank in range(ranks)]


def whole(optimizer="sgd", kappa=None, classes=CLASSES):
    """The state on one rank: two real steps of a backbone and a head, with upstream's keys, and KappaFace's state."""
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Linear(3, SIZE), torch.nn.BatchNorm1d(SIZE))
    head = torch.nn.Linear(SIZE, classes, bias=False)
    kinds = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "adamw": torch.optim.AdamW}
    opt = kinds[optimizer]([{"params": backbone.parameters()}, {"params": head.parameters()}])
    for _ in range(2):
        head(backbone(torch.randn(6, 3))).logsumexp(1).mean().backward()
        opt.step()
    state = head.state_dict()
    if kappa == "memory":
        state["kappa.tracker.estimator.memory"] = torch.randn(SAMPLES, SIZE).half()
        state["kappa.tracker.estimator.memory_class"] = torch.randint(classes, (SAMPLES,))
    elif kappa == "momentum":
        state["kappa.tracker.estimator.sums"] = torch.randn(classes, SIZE)
        state["kappa.tracker.estimator.counts"] = torch.arange(classes)
    if kappa:
        state |= {"kappa.tracker.psi": torch.rand(classes), "kappa.tracker.epoch": torch.tensor(3)}
        state["loss.margin.psi"] = state["kappa.tracker.psi"]
    return {
        "epoch": 3,
        "global_step": 12,
        "state_dict_backbone": backbone.state_dict(),
        "state_dict_softmax_fc": state,
        "state_optimizer": opt.state_dict(),
        "state_lr_scheduler": {
            "total_iters": 40,
            "warmup_iters": 0,
            "last_epoch": 12,
            "power": 2.0,
            "base_lrs": [0.1, 0.1],
            "_last_lr": [0.049, 0.049],
        },
    }


def of_rank(state, rank, ranks, layout=False):
    """The part of a rank. With `layout`, as our head saves it."""

    def rows(x):
        return x.split(sizes(len(x), ranks))[rank].clone()

    head = OrderedDict(state["state_dict_softmax_fc"])
    split = ("weight", "memory", "memory_class", "sums", "counts")
    for key in [key for key in head if key.rpartition(".")[2] in split]:
        head[key] = rows(head[key])
    total, own = len(state["state_dict_softmax_fc"]["weight"]), len(head["weight"])
    head._metadata = {"": {"version": 2}}
    if layout:
        ours = {"classes": total, "ranks": ranks, "rank": rank, "rows": own}
        random = torch.Generator().manual_seed(rank).get_state()
        head._metadata[""]["verimargin"] = {"layout": ours, "random": {"cpu": random}}
    number = state["state_optimizer"]["param_groups"][-1]["params"][0]
    moments = {n: rows(x) if x.dim() == 2 else x for n, x in state["state_optimizer"]["state"][number].items()}
    optimizer = {**state["state_optimizer"], "state": {**state["state_optimizer"]["state"], number: moments}}
    return {**state, "state_dict_softmax_fc": head, "state_optimizer": optimizer}


def write(folder, state, ranks, layout=False, **changed):
    """The files of all ranks."""
    folder.mkdir(exist_ok=True)
    for rank in range(ranks):
        torch.save({**of_rank(state, rank, ranks, layout), **changed}, folder / f"checkpoint_gpu_{rank}.pt")
    return [folder / f"checkpoint_gpu_{rank}.pt" for rank in range(ranks)]


def assert_equal(found, expected, path=""):
    """Equal in structure and, bit for bit, in every tensor."""
    assert type(found) is type(expected) or isinstance(found, dict), path
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, path
        assert torch.equal(found, expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_equal(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for n, pair in enumerate(zip(found, expected)):
            assert_equal(*pair, f"{path}/{n}")
    else:
        assert found == expected, path
