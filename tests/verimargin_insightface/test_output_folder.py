import sys
import types

import pytest
import small_checkpoint
import torch
import verimargin as vm
from distributed import on_ranks
from easydict import EasyDict
from verimargin.files.run_record import NAME, read_record
from verimargin_insightface import output_folder as core


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "work"


def prepared(folder, loss=None, **settings):
    config = EasyDict({"output": str(folder), "num_classes": 4, "resume": False, **settings})
    core.prepare(config, loss or vm.q_margin())
    return config


def finish(folder):
    torch.save({"weight": torch.ones(2)}, folder / "model.pt")
    small_checkpoint.write(folder, small_checkpoint.whole(), 2)


@pytest.mark.parametrize("resume", [False, True])
def test_the_run_of_another_loss_is_refused(folder, resume):
    """With config.resume the checkpoint of the other loss was gone on with, without it overwritten."""
    prepared(folder)
    finish(folder)
    prepared(folder, resume=resume)
    with pytest.raises(ValueError, match=r"holds the run of another loss .*MarginLoss.scale is 32.0 there and 64.0 he"):
        prepared(folder, vm.arcface(), resume=resume)
    with pytest.raises(ValueError, match=r"\(config.num_classes is 4 there and 5 here\): set config.output"):
        prepared(folder, num_classes=5, resume=resume)
    with pytest.raises(ValueError, match=r"\(config.kappa is False there and True here\)"):
        prepared(folder, kappa={"estimator": "memory"}, resume=resume)
    with pytest.raises(ValueError, match=r"\(config.subcenters is 1 there and 3 here\)"):
        prepared(folder, subcenters=3, resume=resume)
    with pytest.raises(ValueError, match=r"\(config.schedule is False there and True here\)"):
        prepared(folder, schedule={"unit": "epochs"}, resume=resume)
    assert read_record(folder)["MarginLoss.scale"] == 32.0


def test_without_results_the_settings_may_change(folder):
    prepared(folder)
    prepared(folder, vm.arcface())
    assert read_record(folder)["MarginLoss.scale"] == 64.0
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == [NAME]


@pytest.mark.parametrize(("resume", "what"), [(False, "overwritten after the first epoch"), (True, "continued with")])
def test_a_run_that_recorded_no_loss_is_named(folder, caplog, resume, what):
    folder.mkdir()
    finish(folder)
    prepared(folder, resume=resume)
    assert "of a run that did not record its loss: it is " + what in caplog.text


def test_a_run_killed_before_its_first_checkpoint_starts_anew(folder, caplog):
    """The script ended with a FileNotFoundError, so that a rerun by the queue never started."""
    assert prepared(folder, resume=True).resume is False
    assert "has no checkpoint to resume from" in caplog.text
    finish(folder)
    assert prepared(folder, resume=True).resume is True


def test_the_scripts_own_settings_count(folder, monkeypatch):
    """Upstream sets the output of a config without one after it has imported the config file."""
    live = EasyDict(output=str(folder), num_classes=4, resume=False)
    monkeypatch.setitem(sys.modules, "configs.base", types.SimpleNamespace(config=live))
    core.prepare(EasyDict(num_classes=4), vm.q_margin())
    assert (folder / NAME).is_file()


def test_without_an_output_there_is_nothing_to_check():
    core.prepare(EasyDict(num_classes=4), vm.q_margin())


def _prepared_on(rank, folder):
    found = [prepared(folder, resume=True).resume]
    torch.distributed.barrier()
    if rank == 0:
        finish(folder)
    torch.distributed.barrier()
    found.append(prepared(folder, resume=True).resume)
    try:
        prepared(folder, vm.arcface(), resume=True)
    except ValueError as error:
        found.append(str(error))
    return found


def test_the_first_rank_looks_and_each_rank_knows(folder):
    """The folder of a rank may be out of date, and one that goes on alone would wait for ever."""
    one, other = on_ranks(2, _prepared_on, folder)
    assert one == other
    assert one[:2] == [False, True]
    assert "holds the run of another loss" in one[2]
