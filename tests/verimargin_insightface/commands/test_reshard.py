import os
import shutil
import types

import pytest
import small_checkpoint as small
import torch
import verimargin as vm
from typer.testing import CliRunner
from verimargin.commands.main import make_app
from verimargin.files.run_record import settings_of, write_record
from verimargin_insightface.commands.reshard import BESIDE, reshard
from verimargin_insightface.resharding import ShardedCheckpoint


@pytest.mark.parametrize("layout", [True, False], ids=["ours", "upstream's"])
def test_there_and_back_again(tmp_path, layout, capsys):
    state = small.whole("adamw", "memory" if layout else None)
    small.write(tmp_path / "run", state, 4, layout)
    torch.save(state["state_dict_backbone"], tmp_path / "run" / "model.pt")
    write_record(tmp_path / "run", settings_of(vm.q_margin()))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    reshard(tmp_path / "run", tmp_path / "three", 3)
    assert "epoch 3, 10 classes of 4 ranks on 3: set config.output = " in capsys.readouterr().out
    reshard(tmp_path / "three", tmp_path / "four", 4)
    assert sorted(os.listdir(tmp_path / "three")) == [*(f"checkpoint_gpu_{rank}.pt" for rank in range(3)), *BESIDE]
    for folder, ranks in (("three", 3), ("four", 4)):
        for rank in range(ranks):
            found = torch.load(tmp_path / folder / f"checkpoint_gpu_{rank}.pt")
            small.assert_equal(found, small.of_rank(state, rank, ranks))
            weight = found["state_dict_softmax_fc"]["weight"]
            assert weight.untyped_storage().nbytes() == weight.nbytes, "other ranks' prototypes would be in the file"
    assert all((tmp_path / "four" / name).read_bytes() == before[name] for name in BESIDE)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_entry_point(tmp_path):
    small.write(tmp_path / "run", small.whole(), 2)
    done = CliRunner().invoke(make_app(), ["reshard", str(tmp_path / "run"), str(tmp_path / "one"), "--ranks", "1"])
    assert done.exit_code == 0, done.output
    assert os.listdir(tmp_path / "one") == ["checkpoint_gpu_0.pt"]


def test_wrong_input_leaves_nothing(tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "new" / "out"
    small.write(run, small.whole(), 2)
    with pytest.raises(ValueError, match="10 classes cannot be split over 11 ranks: give 1 to 10"):
        reshard(run, out, 11)
    with pytest.raises(FileExistsError, match="exists already: move it, or give another folder"):
        reshard(run, run, 1)
    (run / "checkpoint_gpu_0.pt").rename(tmp_path / "kept.pt")
    with pytest.raises(ValueError, match=r"checkpoint_gpu_0\.pt is missing"):
        reshard(run, out, 1)
    with pytest.raises(ValueError, match="is no folder"):
        reshard(tmp_path / "nothing", out, 1)
    (tmp_path / "kept.pt").rename(run / "checkpoint_gpu_0.pt")
    with monkeypatch.context() as patch:
        patch.setattr(ShardedCheckpoint, "size_on", lambda *_: 3 * 10**6)
        patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(total=10**9, free=2 * 10**6))
        with pytest.raises(OSError, match=r"out needs 3,000,000 bytes, but its disk has only 2,000,000 left"):
            reshard(run, tmp_path / "out", 1)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        reshard(run, tmp_path / "out", 1)
    assert sorted(os.listdir(tmp_path)) == ["run"]
