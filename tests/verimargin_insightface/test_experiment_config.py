import pytest
import verimargin as vm
import verimargin_insightface
from verimargin.files import hparams as recipes
from verimargin_insightface import experiment_config, registration
from verimargin_insightface.experiment_config import config_file, configured

UPSTREAM = "from easydict import EasyDict as edict\nconfig = edict()\nconfig.num_classes = 3\nconfig.rec = 'x'\n"


@pytest.fixture
def registered(monkeypatch):
    """The configs that were registered, in the end."""
    seen = []
    monkeypatch.setattr(verimargin_insightface, "register", seen.append)
    return seen


def changes(tmp_path, loss="q_margin", kappa=None, **options):
    settings = {"num_epoch": 2, "rec": str(tmp_path), "seed": 3}
    return {"settings": settings, "loss": loss, "options": options, "kappa": kappa, "output": str(tmp_path / "train")}


def test_a_config_of_ours_gets_the_changes_before_it_is_registered(registered, tmp_path):
    recipe = str(recipes.path("cpu_mbf_kappaface.py"))
    config = configured(recipe, changes(tmp_path, alpha=1.5, scale=9.0, margin=0.3))
    assert registered == [config]
    assert (config.num_epoch, config.seed, config.rec) == (2, 3, str(tmp_path))
    assert isinstance(config.loss.margin, vm.QMargin)
    assert config.loss.scale == 9.0
    assert "kappa" not in config  # that of the file was for its own loss
    assert config.save_all_states
    assert not config.resume
    assert config.output == str(tmp_path / "train")


def test_kappa_and_quality_are_those_of_the_loss(registered, tmp_path):
    recipe = str(recipes.path("cpu_mbf_qmargin.py"))
    kappa = {"estimator": "memory"}
    config = configured(recipe, changes(tmp_path, "kappaface", kappa, num_classes=30))
    assert config.kappa == kappa
    config = configured(recipe, changes(tmp_path, quality={"weight": 0.5}))
    assert config.loss.margin.quality is not None


def test_the_loss_of_the_file_stays_where_the_experiment_has_none(registered, tmp_path):
    config = configured(str(recipes.path("cpu_mbf_kappaface.py")), changes(tmp_path, loss=""))
    assert config.kappa.estimator == "momentum"
    assert registered == [config]


def test_upstreams_loss_is_not_registered(registered, tmp_path):
    (tmp_path / "theirs.py").write_text(UPSTREAM)
    config = configured(str(tmp_path / "theirs.py"), changes(tmp_path, loss=""))
    assert registered == []
    assert "loss" not in config


def test_a_folder_with_a_checkpoint_is_resumed(registered, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "checkpoint_gpu_0.pt").touch()
    assert configured(str(recipes.path("cpu_mbf_qmargin.py")), changes(tmp_path)).resume


def test_the_file_that_is_written_says_the_same(registered, tmp_path, monkeypatch):
    given = changes(tmp_path, alpha=1.5, scale=9.0)
    text = config_file(recipes.path("cpu_mbf_qmargin.py"), given)
    namespace: dict = {}
    exec(compile(text, "compared.py", "exec"), namespace)
    assert namespace["config"].loss.scale == 9.0
    assert namespace["config"].num_epoch == 2


def test_register_is_put_back(tmp_path):
    before = registration.register
    (tmp_path / "broken.py").write_text("import verimargin_insightface\nraise KeyError('config')\n")
    with pytest.raises(KeyError):
        experiment_config.configured(str(tmp_path / "broken.py"), changes(tmp_path))
    assert registration.register is before
    assert verimargin_insightface.register is before
