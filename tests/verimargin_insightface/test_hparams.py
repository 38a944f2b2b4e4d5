"""The configs import, register their loss in train_v2.py, and hold all that train_v2.py asks for."""

import pathlib
import runpy
import sys
import types

import pytest
import verimargin as vm
from verimargin_insightface import registration

FOLDER = pathlib.Path(__file__).parents[2] / "hparams" / "arcface_torch"
FACES = {  # classes, images, network
    "ms1mv3_r50_qmargin": (93431, 5179510, "r50"),
    "glint360k_r100_qmargin": (360232, 17091657, "r100"),
    "wf42m_r100_qmargin": (2059906, 42474557, "r100"),
}

FINETUNING = ("ms1mv3_r50_finetune", "cpu_mbf_finetune")
OTHERS = ("ms1mv3_r50_kappaface", "ms1mv3_r50_adaface", "cpu_mbf_qmargin", "cpu_mbf_kappaface", *FINETUNING)


def load(name, monkeypatch):
    script = types.ModuleType("train_v2")
    names = ("PartialFC_V2", "CombinedMarginLoss", "get_model", "get_dataloader", "SummaryWriter")
    script.__dict__.update(dict.fromkeys(names, object))
    monkeypatch.setitem(sys.modules, "train_v2", script)
    monkeypatch.setattr(registration, "check_data", lambda *_: None)  # the data is the user's
    config = runpy.run_path(str(FOLDER / f"{name}.py"))["config"]
    assert script.PartialFC_V2 is not object
    return config


def test_there_are_no_others():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*FACES, *OTHERS}


@pytest.mark.parametrize("name", FACES)
def test_faces(name, monkeypatch):
    config = load(name, monkeypatch)
    assert (config.num_classes, config.num_image, config.network) == FACES[name]
    assert (config.loss.alpha, config.loss.scale, config.loss.margin.m) == (1.25, 32.0, 0.2)
    assert isinstance(config.loss.margin, vm.QMargin)
    assert config.sample_rate == 1.0


@pytest.mark.parametrize("name", ["cpu_mbf_qmargin", "cpu_mbf_kappaface"])
def test_cpu_trials(name, monkeypatch):
    config = load(name, monkeypatch)
    assert (config.network, config.fp16, config.num_classes) == ("mbf", False, 30)


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_differs_in_margin_and_length_alone(name, monkeypatch):
    started = []
    monkeypatch.setattr(registration, "Pretrained", started.append)
    plain, config = load(name.replace("finetune", "qmargin"), monkeypatch), load(name, monkeypatch)
    changed = {"loss", "schedule", "pretrained", "lr", "num_epoch"}
    assert {key for key in config if config[key] != plain.get(key)} == changed
    assert started == [config.pretrained]
    ramp = config.schedule["margin"]
    assert config.loss.margin.m == ramp.initial == plain.loss.margin.m < ramp.final
    assert config.lr < plain.lr


@pytest.mark.parametrize("name", ["ms1mv3_r50", "cpu_mbf"])
def test_kappaface_differs_in_the_loss_alone(name, monkeypatch):
    plain, config = (load(f"{name}_{method}", monkeypatch) for method in ("qmargin", "kappaface"))
    assert {key for key in config if config[key] != plain.get(key)} == {"loss", "kappa"}
    assert (type(config.loss.margin), config.loss.margin.m, config.loss.alpha) == (vm.ArcMargin, 0.8, 1.0)


def test_adaface(monkeypatch):
    config = load("ms1mv3_r50_adaface", monkeypatch)
    margin = config.loss.margin
    assert (type(margin), margin.m, margin.quality.h) == (vm.AdaMargin, 0.4, 0.333)
    assert (config.loss.alpha, config.loss.scale) == (1.0, 64.0)
