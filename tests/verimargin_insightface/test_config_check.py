import pytest
from verimargin.files import hparams
from verimargin_insightface.config_check import check_config, check_configs
from verimargin_insightface.launcher import main

START = "from easydict import EasyDict\nconfig = EasyDict()\nconfig.lr = 0.1\n"


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "configs" / "mine.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(START + text)
        return path

    return write


@pytest.mark.parametrize("setting", ["loss", "kappa"])
def test_a_setting_without_register_is_refused_with_the_lines_to_add(config, setting):
    """Such a config trained upstream's ArcFace, and returned 0."""
    path = config(f"config.{setting} = dict()\n")
    with pytest.raises(ValueError, match=rf"mine.py sets config.{setting} and does not call register") as error:
        check_config(path)
    path.write_text(START + f"config.{setting} = dict()\n" + str(error.value).split("\n\n")[1])
    check_config(path)


@pytest.mark.parametrize("call", ["register(config)", "verimargin_insightface.register(config)", "vi.register(config)"])
def test_register_by_any_name_will_do(config, call):
    check_config(config(f"config.loss = 1\n{call}\n"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("kapa", "kappa"),
        ("los", "loss"),
        ("losss", "loss"),
        ("kapppa", "kappa"),
        ("shedule", "schedule"),
        ("scheduler", "schedule"),
        ("pretrain", "pretrained"),
        ("screning", "screening"),
        ("sub_centers", "subcenters"),
        ("subcentres", "subcenters"),
        ("pretained", "pretrained"),
    ],
)
def test_a_name_close_to_ours_is_refused(config, name, meant):
    text = f"config.{name} = 1\nregister(config)\n"
    with pytest.raises(ValueError, match=rf"sets config.{name}, which nothing reads: did you mean config.{meant}\?"):
        check_config(config(text))


def test_upstreams_settings_and_our_configs_pass(config):
    names = (
        *("margin_list", "network", "resume", "output", "embedding_size", "sample_rate", "fp16", "momentum", "lr"),
        *("weight_decay", "batch_size", "verbose", "dali", "rec", "num_classes", "num_image", "num_epoch", "seed"),
        *("warmup_epoch", "val_targets", "save_all_states", "gradient_acc", "optimizer", "num_workers", "frequent"),
    )
    check_config(config("".join(f"config.{name} = 1\n" for name in names)))
    for name in hparams.names():
        if name.endswith(".py"):
            check_config(hparams.path(name))


def test_the_launcher_refuses_before_the_script_runs(config, tmp_path, monkeypatch):
    path = config("config.loss = 1\n")
    (tmp_path / "train_v2.py").write_text("raise RuntimeError('the script ran')\n")
    monkeypatch.chdir(tmp_path)
    for arguments in (["train_v2.py", "configs/mine.py"], [str(tmp_path / "train_v2.py"), "configs/mine.py"]):
        with pytest.raises(SystemExit, match="does not call register"):
            main(arguments)
    monkeypatch.chdir(path.parent)  # upstream finds it beside the script
    with pytest.raises(ValueError, match="does not call register"):
        check_configs(str(tmp_path / "train_v2.py"), ["configs/mine.py"])
    check_configs("train_v2.py", ["configs/none.py"])  # upstream says so
    path.write_text("config.loss = (\n")
    check_config(path)  # Python says so
