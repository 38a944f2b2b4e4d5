import random
import subprocess
import sys

import numpy as np
import torch
from distributed import on_ranks
from speechbrain.utils.checkpoints import Checkpointer
from verimargin_speechbrain import RandomState


def draws():
    return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))


def test_a_checkpoint_restores_every_generator(tmp_path):
    np.random.randn()  # leaves a second normal number waiting inside the generator
    Checkpointer(tmp_path, {"random_state": RandomState()}).save_checkpoint()
    expected = draws()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    Checkpointer(tmp_path, {"random_state": RandomState()}).recover_if_possible()
    assert draws() == expected


def _loaded(rank, path):
    RandomState().load(path)
    return draws()


def test_processes_that_share_a_checkpoint_draw_differently(tmp_path):
    RandomState().save(tmp_path / "state")
    expected = draws()
    first, second = on_ranks(2, _loaded, tmp_path / "state")
    assert first == expected
    assert not set(first) & set(second)
    assert on_ranks(2, _loaded, tmp_path / "state") == [first, second]


def test_a_recipe_with_it_alone_has_its_checkpoints_checked(tmp_path):
    """In a process of its own, in which no loss of ours has been made."""
    code = """
import sys, speechbrain as sb, torch
from speechbrain.utils.checkpoints import Checkpointer
from verimargin_speechbrain import RandomState
def brain():
    net = torch.nn.Linear(2, 2)
    recoverables = {"net": net, "random_state": RandomState()}
    hparams = {"compute_cost": torch.nn.CrossEntropyLoss()}
    made = sb.Brain({"net": net}, lambda p: torch.optim.SGD(p, lr=0.1), hparams, {"device": "cpu"},
                    Checkpointer(sys.argv[1], recoverables))
    made.on_fit_start()
    return made
made = brain()
first = made.checkpointer.save_checkpoint()
(made.checkpointer.save_checkpoint().path / "CKPT.yaml").write_bytes(b"")  # killed
brain()
assert len(made.checkpointer.list_checkpoints()) == 1
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("interrupted+CKPT*"))) == 1
