import sys
import types

import pytest
import verimargin as vm
from easydict import EasyDict
from verimargin_insightface import register
from verimargin_insightface.recordio import IRHeader, RecordWriter, pack


def upstream_get_model(name, **kwargs):
    if name == "odd":
        raise ValueError("odd sizes")
    if name != "r50":
        raise ValueError()
    return kwargs


@pytest.fixture
def script(monkeypatch):
    module = types.ModuleType("train_v2")
    module.__dict__.update(PartialFC_V2=object, CombinedMarginLoss=object, get_model=upstream_get_model)
    monkeypatch.setitem(sys.modules, "train_v2", module)
    return module


@pytest.fixture
def config(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "faces" / name).mkdir(parents=True)
    return EasyDict(
        rec=str(tmp_path / "faces"), num_classes=2, num_image=9, num_epoch=1, warmup_epoch=0, val_targets=[],
        loss=vm.q_margin(1.25, 32.0, 0.2),
    )  # fmt: skip


def test_the_script_uses_the_configs_loss(script, config):
    register(config)
    assert script.PartialFC_V2.keywords["screening"] == "auto"
    assert script.CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0) is config.loss
    assert script.get_model("r50", dropout=0.0) == {"dropout": 0.0}


def test_the_config_names_the_screening(script, config):
    config.screening = "off"
    register(config)
    assert script.PartialFC_V2.keywords["screening"] == "off"
    config.screening = "fp8"
    with pytest.raises(ValueError, match="screening is 'fp8': give one of 'auto', 'off'"):
        register(config)


def test_the_running_script_comes_first(script, config, monkeypatch):
    main = types.ModuleType("__main__")
    main.__dict__.update(script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    register(config)
    assert main.PartialFC_V2 is not object
    assert script.PartialFC_V2 is object


def test_an_unknown_network_is_named(script, config):
    register(config)
    with pytest.raises(ValueError, match=r"config.network is 'r51'"):
        script.get_model("r51")
    with pytest.raises(ValueError, match=r"odd sizes"):
        script.get_model("odd")


def test_interclass_filtering_is_refused(script, config):
    register(config)
    with pytest.raises(ValueError, match=r"interclass_filtering_threshold is 0.4"):
        script.CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0.4)


@pytest.mark.parametrize("name", ["kappa", "schedule", "pretrained", "screening", "subcenters"])
def test_a_setting_that_comes_too_late_is_refused(script, config, name):
    register(config)
    config[name] = {"estimator": "momentum"}
    with pytest.raises(ValueError, match=rf"config.{name} was set after register"):
        script.CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0)


def test_without_a_script_nothing_is_replaced_silently(config):
    with pytest.raises(RuntimeError, match=r"no running train_v2.py"):
        register(config)


@pytest.mark.parametrize("loss", [None, "q_margin"])
def test_a_config_without_a_loss_is_refused(script, config, loss):
    config.loss = loss
    with pytest.raises(ValueError, match=r"config.loss is .*: give a verimargin.MarginLoss"):
        register(config)
    assert script.PartialFC_V2 is object


def test_a_config_without_num_classes_is_refused(script, config):
    del config["num_classes"]
    with pytest.raises(ValueError, match=r"the config has no num_classes: set config.num_classes"):
        register(config)


def test_more_classes_than_num_classes_are_refused(script, config):
    config.num_classes = 1
    with pytest.raises(ValueError, match=r"has 2 classes, config.num_classes is 1"):
        register(config)


def test_more_classes_in_a_recordio_set_are_refused(script, config, tmp_path):
    with RecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as writer:
        writer.write_idx(0, pack(IRHeader(2, [1.0, 4.0], 0, 0), b""))
    config.rec = str(tmp_path)
    with pytest.raises(ValueError, match=r"has 3 classes, config.num_classes is 2"):
        register(config)
    config.num_classes = 3
    register(config)


def test_a_rec_that_holds_no_data_is_refused(script, config, tmp_path):
    (tmp_path / "empty").mkdir()
    for rec in ("empty", "missing"):
        config.rec = str(tmp_path / rec)
        with pytest.raises(ValueError, match=r"holds neither train.rec and train.idx nor a folder"):
            register(config)
    (tmp_path / "empty" / "train.rec").write_bytes(b"")
    config.rec = str(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"has train.rec without train.idx"):
        register(config)


def test_synthetic_data_needs_none(script, config):
    config.rec = "synthetic"
    register(config)


def test_more_classes_than_the_data_have_are_reported(script, config, caplog):
    register(config)
    assert "num_classes" not in caplog.text
    config.num_classes = 5
    register(config)
    assert "config.num_classes is 5" in caplog.text
    assert "has 2 classes: the other prototypes never get a sample" in caplog.text


def test_a_loss_that_is_set_after_register_is_refused(script, config):
    """The one was trained, and the other one stood in the log."""
    register(config)
    config.loss = vm.arcface()
    with pytest.raises(ValueError, match=r"config.loss was set after register\(config\)"):
        script.CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0)
