"""Each fix: it is not applied if the library still behaves as the scripts expect, and otherwise supplies that."""

import importlib.util
import inspect
import sys
import types

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from verimargin_insightface import compat
from verimargin_insightface.launcher import apply_fixes

BY_NAME = {fix.name: fix for fix in compat.FIXES}


class OldScheduler:
    def __init__(self, optimizer, last_epoch=-1, verbose=False):
        pass


OLD_LIBRARIES = {  # fix: (owner, attribute, what an old library has there)
    "LRScheduler.verbose": (lr_scheduler, "LRScheduler", OldScheduler),
    "cuda": (torch.cuda, "is_available", lambda: True),
    "nccl": (torch.cuda, "is_available", lambda: True),
    "DDP.device_ids": (torch.cuda, "is_available", lambda: True),
    "torch.load": (torch.cuda, "is_available", lambda: True),
    "multiprocessing.fork": (compat.multiprocessing, "get_start_method", lambda: "fork"),
    "reader thread": (compat.threading, "excepthook", lambda args: None),
    **{
        name: (importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin="there"))
        for name in ("mxnet", "menpo", "insightface")
    },
}


@pytest.mark.parametrize("name", OLD_LIBRARIES)
def test_left_out_where_the_behaviour_is_there(name, monkeypatch):
    owner, attribute, old = OLD_LIBRARIES[name]
    monkeypatch.setattr(owner, attribute, old)
    assert not BY_NAME[name].needed("")


def test_numpy_names_are_left_as_they_are(monkeypatch):
    for name in ("int", "float", "bool"):
        monkeypatch.setattr(np, name, "the library's", raising=False)
    assert not BY_NAME["numpy.int"].needed("")


def test_a_numpy_name_that_is_there_is_kept(monkeypatch):
    monkeypatch.delattr(np, "int", raising=False)
    monkeypatch.setattr(np, "float", "the library's", raising=False)
    assert apply_fixes((BY_NAME["numpy.int"],)) == ["numpy.int"]
    assert (np.int, np.float) == (int, "the library's")
    assert not BY_NAME["numpy.int"].needed("")


def test_scheduler_takes_verbose(monkeypatch):
    def new(self, optimizer, last_epoch=-1):
        self.seen = (optimizer, last_epoch)

    monkeypatch.setattr(lr_scheduler.LRScheduler, "__init__", new)
    assert apply_fixes((BY_NAME["LRScheduler.verbose"],)) == ["LRScheduler.verbose"]
    assert lr_scheduler.LRScheduler("an optimizer", last_epoch=3, verbose=True).seen == ("an optimizer", 3)
    assert apply_fixes((BY_NAME["LRScheduler.verbose"],)) == [], "and once is enough"


def test_similarity_transform_estimates_again(monkeypatch):
    transform = pytest.importorskip("skimage.transform")
    if not hasattr(transform.SimilarityTransform, "from_estimate"):
        pytest.skip("this scikit-image has no from_estimate yet")
    source, moved = np.array([[0.0, 0], [1, 0], [0, 1]]), np.array([[1.0, 2], [1, 4], [-1, 2]])
    expected = transform.SimilarityTransform.from_estimate(source, moved).params

    class Later(transform.SimilarityTransform):  # with estimate gone
        def __getattribute__(self, name):
            if name == "estimate" and "estimate" not in Later.__dict__:
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(compat, "_similarity", lambda: Later)
    BY_NAME["SimilarityTransform"].apply("")
    found = Later()
    assert found.estimate(source, moved) is True
    np.testing.assert_allclose(found.params, expected)
    assert found.estimate(np.zeros((3, 2)), moved) is False


def test_similarity_transform_is_left_where_it_estimates():
    pytest.importorskip("skimage")
    assert BY_NAME["SimilarityTransform"].needed("") is not hasattr(compat._similarity(), "estimate")


def test_slinear_interpolation_takes_ties(monkeypatch):
    interpolate = pytest.importorskip("scipy.interpolate")
    monkeypatch.setattr(interpolate, "interp1d", interpolate.interp1d)
    fix = BY_NAME["interp1d.slinear"]
    fix.apply("")
    between = interpolate.interp1d([0.0, 0.0, 0.5, 1.0, 1.0], [0.0, 1.0, 2.0, 4.0, 5.0], kind="slinear")
    assert [float(between(x)) for x in (0.25, 0.75)] == [1.5, 3.0]
    assert not fix.needed("")


def test_a_folder_of_its_name_is_no_installation(tmp_path, monkeypatch):
    (tmp_path / "menpo").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "menpo", raising=False)
    assert BY_NAME["menpo"].needed("")


def test_insightface_is_found_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "insightface", raising=False)  # the tests of FaceScorer have imported it
    fix, script = BY_NAME["insightface"], str(tmp_path / "recognition" / "arcface_torch" / "onnx_ijbc.py")
    assert not fix.needed(script), "without one there is nothing to supply"
    (tmp_path / "python-package" / "insightface").mkdir(parents=True)
    assert fix.needed(script)
    fix.apply(script)
    assert sys.path[-1] == str(tmp_path / "python-package")


def test_menpo_gives_a_colour_for_each_method(monkeypatch):
    pytest.importorskip("matplotlib")
    for name in ("menpo", "menpo.visualize", "menpo.visualize.viewmatplotlib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    BY_NAME["menpo"].apply("")
    sample = sys.modules["menpo.visualize.viewmatplotlib"].sample_colours_from_colourmap
    assert [len(colour) for colour in sample(3, "Set2")] == [4, 4, 4]
    assert len(sample(1, "Set2")) == 1


@pytest.mark.parametrize(("name", "code"), [("BackgroundGenerator", 1), ("Other", 0)])
def test_a_reader_thread_that_fails_ends_the_run(python, name, code):
    done = python(
        "-c",
        f"""
import threading
from verimargin_insightface.compat import FIXES
(fix,) = [fix for fix in FIXES if fix.name == "reader thread"]
fix.apply("")
class {name}(threading.Thread):
    def run(self):
        raise ValueError("record 7")
thread = {name}()
thread.start()
thread.join()
""",
        check=False,
    )
    assert done.returncode == code
    assert "ValueError: record 7" in done.stderr


def test_every_mend_is_named_once_and_says_why():
    assert len(BY_NAME) == len(compat.FIXES)
    assert all(fix.why and inspect.isfunction(fix.apply) for fix in compat.FIXES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="these fixes are for machines without a GPU")
def test_a_gpu_means_the_cpu(python):
    """In a separate process, because the fixes stay applied."""
    python(
        "-c",
        """
import tempfile, torch, torch.distributed as dist
from verimargin_insightface.launcher import apply_fixes
from verimargin_insightface.compat import FIXES
apply_fixes(FIXES)
x = torch.ones(2)
assert x.cuda() is x and x.to(device=0, non_blocking=True) is x and x.to("cuda").device.type == "cpu"
assert x.to(torch.float64).dtype == torch.float64 and x.to("cpu", torch.float16).dtype == torch.float16
assert torch.tensor(3, dtype=torch.int32, device="cuda").device.type == "cpu"
net = torch.nn.Linear(2, 1).cuda()
torch.cuda.set_device(0)
with torch.cuda.stream(torch.cuda.Stream(0)):
    torch.cuda.current_stream().wait_stream(torch.cuda.Stream(0))
store = "file://" + tempfile.mktemp()
dist.init_process_group("nccl", init_method=store, rank=0, world_size=1)
assert dist.get_backend() == "gloo"
net = torch.nn.parallel.DistributedDataParallel(module=net, device_ids=[0], broadcast_buffers=False)
net(x[None]).sum().backward()
with tempfile.NamedTemporaryFile() as file:
    torch.save(x, file.name)
    assert torch.equal(torch.load(file.name), x)
    assert torch.equal(torch.load(file.name, "cpu"), x)
assert apply_fixes(FIXES[:11]) == []
""",
    )


def test_a_file_is_saved_whole_and_a_stream_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", torch.save)
    fix = BY_NAME["torch.save"]
    assert fix.needed("")
    fix.apply("")
    assert not fix.needed("")
    (tmp_path / "a.pt").write_bytes(b"old")
    (tmp_path / "link.pt").symlink_to(tmp_path / "a.pt")
    torch.save({"a": 1}, tmp_path / "link.pt")
    assert torch.load(tmp_path / "a.pt") == {"a": 1}
    torch.save(obj={"a": 2}, f=str(tmp_path / "a.pt"))
    assert torch.load(tmp_path / "link.pt") == {"a": 2}
    with (tmp_path / "stream.pt").open("wb") as file:
        torch.save([3], file)
    assert torch.load(tmp_path / "stream.pt") == [3]
    assert len(list(tmp_path.iterdir())) == 3
