import random

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
