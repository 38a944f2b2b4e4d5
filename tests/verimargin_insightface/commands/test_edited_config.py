import types

import pytest
import verimargin as vm
from verimargin.commands.comparison.losses import read_loss
from verimargin.files import hparams
from verimargin_insightface.commands.edited_config import edited

THEIRS = """from easydict import EasyDict as edict
config = edict()
config.margin_list = (1.0, 0.5, 0.0)
config.lr = 0.1  # theirs
"""
OURS = """import verimargin as vm
from verimargin_insightface import register
config.loss = vm.arcface(
    64, 0.5
)
config.kappa = dict(estimator="memory")
register(config)
"""
OTHER_IMPORT = "from verimargin import arcface\n" + OURS.split("\n", 1)[1].replace("vm.arcface", "arcface")


def run(text, monkeypatch):
    """The config that a text makes, and how often it was registered, without arcface_torch."""
    import verimargin_insightface as adapter

    registered = []
    monkeypatch.setattr(adapter, "register", registered.append)
    given = {"config": types.SimpleNamespace()}
    exec(text.replace("from easydict import EasyDict as edict\nconfig = edict()\n", ""), given)
    assert all(config is given["config"] for config in registered)
    return given["config"], len(registered)


@pytest.mark.parametrize(
    "before", [THEIRS, OURS, OTHER_IMPORT, "config.network = 'r50'", OURS.replace("config.kappa", "# ")]
)
@pytest.mark.parametrize("kappa", [None, {"estimator": "momentum"}])
def test_the_edited_config_has_the_loss_and_its_settings_and_registers_once(monkeypatch, before, kappa):
    entry = {"loss": "q_margin", "alpha": 1.25, "scale": 32, "margin": 0.2, "settings": {"lr": 0.05, "name": "it's"}}
    loss = read_loss("x", entry | ({"kappa": kappa} if kappa else {}))
    config, times = run(edited(before, loss), monkeypatch)
    assert times == 1
    assert repr(config.loss) == repr(vm.q_margin(1.25, 32, 0.2))
    assert (config.lr, config.name) == (0.05, "it's")
    assert getattr(config, "kappa", None) == kappa


def test_a_setting_alone_changes_its_line_alone():
    text = edited(THEIRS, read_loss("x", {"settings": {"lr": 0.05}}))
    assert text == THEIRS.replace("config.lr = 0.1  # theirs", "config.lr = 0.05")
    assert edited(OURS, read_loss("x", {})) == OURS


def test_the_quality_is_written_as_it_is_called(monkeypatch):
    loss = read_loss("x", {"loss": "q_margin", "quality": {"momentum": 0.5}})
    config, _ = run(edited(THEIRS, loss), monkeypatch)
    assert repr(config.loss) == repr(loss.build())


def test_our_configs_are_edited_where_they_stand():
    before = hparams.path("cpu_mbf_qmargin.py").read_text()
    after = edited(before, read_loss("x", {"loss": "arcface", "scale": 64, "margin": 0.5}))
    old = "config.loss = vm.q_margin(alpha=1.5, scale=10, margin=0.2)"
    assert after == before.replace(old, "config.loss = vm.arcface(scale=64, margin=0.5)")
