import logging
import re
import sys
import types

import pytest
import torch.distributed as dist
import verimargin as vm
from easydict import EasyDict
from verimargin_insightface.head_memory import describe, log_head_memory


def test_two_million_classes_on_eight_ranks():
    """250,000 x 512 x 4 bytes are 488.3 MiB; at times the optimiser needs as much again, and the head less."""
    config = EasyDict(num_classes=2_000_000, batch_size=128, embedding_size=512, sample_rate=1.0)
    assert describe(config, vm.q_margin(1.25, 32.0, 0.2), 8, gpu=True) == (
        "the head needs about 1.91 GiB on each of 8 ranks: 488.3 MiB for 250,000 of 2,000,000 prototypes, as much for "
        "their gradient, 488.3 MiB for the optimiser's state, and at times up to 488.3 MiB more"
    )


def test_the_settings_of_a_run_count():
    config = EasyDict(num_classes=1_000_000, batch_size=1024, embedding_size=64)
    dense = describe(config, vm.arcface(), 1, gpu=True)
    assert "up to 3.82 GiB more" in dense, "the logits: 1,024 x 1,000,000 x 4 bytes"
    assert "up to 3.82 GiB" not in describe(config, vm.q_margin(1.25, 32.0, 0.2), 1, gpu=True)
    config.optimizer = "adamw"
    assert "244.1 MiB for 1,000,000" in describe(config, vm.arcface(), 1, gpu=True)
    assert "488.3 MiB for the optimiser's state" in describe(config, vm.arcface(), 1, gpu=True)
    config.sample_rate = 0.1
    # 1,024 x 100,000 logits; two numbers for each class; blocks of 1 MiB; twice 100,000 x 64 numbers
    assert f"up to {(409.6e6 + 0.8e6 + 2**20 + 51.2e6) / 2**20:.1f} MiB" in describe(config, vm.arcface(), 1, gpu=True)


def test_the_start_of_a_training_counts():
    """At alpha 1.02 all of the 128 x 100,000 pairs are candidates at first, of 140 bytes each."""
    config = EasyDict(num_classes=100_000)
    found = describe(config, vm.q_margin(1.02, 32.0, 0.2), 1, gpu=False)
    assert 140 * 128 * 1e5 / 2**30 < float(re.search(r"up to ([\d.]+) GiB more", found)[1]) < 1.8
    assert "195.3 MiB more" in describe(config, vm.q_margin(1.25, 32.0, 0.2), 1, gpu=False), "the optimiser's"


def test_subcenters_are_prototypes_and_no_more_candidates():
    config = EasyDict(num_classes=100_000, subcenters=3)
    assert "for 300,000 of 300,000 prototypes" in describe(config, vm.q_margin(1.02, 32.0, 0.2), 1, gpu=False)
    config.num_classes = 10
    assert "for 30 of 30" in describe(config, vm.q_margin(1.25, 32.0, 0.2), 1, gpu=False)


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_the_first_rank_logs_the_settings_of_the_running_script(monkeypatch, caplog, rank, lines):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    base = types.ModuleType("configs.base")
    base.config = EasyDict(num_classes=10, batch_size=4)
    monkeypatch.setitem(sys.modules, "configs.base", base)
    caplog.set_level(logging.INFO, "verimargin_insightface")
    log_head_memory(EasyDict(num_classes=99), vm.q_margin(1.25, 32.0, 0.2))
    assert len(caplog.records) == lines
    assert all("5 of 10 prototypes" in record.message for record in caplog.records)
