"""The configs import, register their loss in train_v2.py, and hold all that train_v2.py asks for."""

import pathlib
import runpy
import sys
import types

import pytest
import verimargin as vm
from verimargin_insightface import PartialFC, registration

FOLDER = pathlib.Path(__file__).parents[2] / "hparams" / "arcface_torch"
FACES = {  # classes, images, network
    "ms1mv3_r50_qmargin": (93431, 5179510, "r50"),
    "glint360k_r100_qmargin": (360232, 17091657, "r100"),
    "wf42m_r100_qmargin": (2059906, 42474557, "r100"),
}


def load(name, monkeypatch):
    script = types.ModuleType("train_v2")
    script.__dict__.update(PartialFC_V2=object, CombinedMarginLoss=object, get_model=object)
    monkeypatch.setitem(sys.modules, "train_v2", script)
    monkeypatch.setattr(registration, "check_data", lambda rec, num_classes: None)  # the data is the user's
    config = runpy.run_path(str(FOLDER / f"{name}.py"))["config"]
    assert script.PartialFC_V2 is PartialFC
    return config


def test_there_are_no_others():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*FACES, "cpu_mbf_qmargin"}


@pytest.mark.parametrize("name", FACES)
def test_faces(name, monkeypatch):
    config = load(name, monkeypatch)
    assert (config.num_classes, config.num_image, config.network) == FACES[name]
    assert (config.loss.alpha, config.loss.scale, config.loss.margin.m) == (1.25, 32.0, 0.2)
    assert isinstance(config.loss.margin, vm.QMargin)
    assert config.sample_rate == 1.0


def test_cpu_trial(monkeypatch):
    config = load("cpu_mbf_qmargin", monkeypatch)
    assert (config.network, config.fp16, config.num_classes) == ("mbf", False, 30)
