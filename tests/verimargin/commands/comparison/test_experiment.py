import pytest
import torch
from small_experiment import EXPERIMENT, write_experiment
from verimargin.commands.comparison.experiment import folder_name, read_experiment
from verimargin.files import hparams as recipes


def test_paths_are_relative_to_the_file(tmp_path):
    read = read_experiment(write_experiment(tmp_path))
    assert read.home == tmp_path / "checkout"
    assert read.trials == tmp_path / "trials.txt"
    assert read.out == tmp_path / "out"
    assert read.seeds == (1, 2)
    assert [loss.title for loss in read.losses] == ["ArcFace", "Q-Margin"]
    assert read.settings_of(read.losses[1]) == {"noise": 0.2}


def test_a_recipe_is_beside_the_file_in_the_checkout_or_shipped(tmp_path):
    read = read_experiment(write_experiment(tmp_path, EXPERIMENT.replace("toolkit: small", "toolkit: speechbrain")))
    loss = read.losses[0]
    assert read.recipe_of(loss) == tmp_path / "recipe.yaml"
    (tmp_path / "recipe.yaml").rename(tmp_path / "checkout" / "recipe.yaml")
    assert read.recipe_of(loss) == tmp_path / "checkout" / "recipe.yaml"
    (tmp_path / "checkout" / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match="there is no recipe"):
        read.recipe_of(loss)


def test_devices_are_those_of_runs_at_a_time(tmp_path, monkeypatch):
    assert read_experiment(write_experiment(tmp_path)).devices == (("cpu",), ("cpu",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    text = EXPERIMENT.replace("devices: 2", "devices: [[cuda:0, cuda:1], [cuda:2, cuda:3]]")
    assert read_experiment(write_experiment(tmp_path, text)).devices == (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3"))


@pytest.mark.parametrize(
    ("entry", "is_told"),
    [
        ("{loss: arcface, settings: {noise: 0.9}}", True),
        ("{loss: arcface, scale: 64, margin: 0.5, settings: {noise: 0.9}}", True),  # the defaults
        ("{loss: arcface, recipe: recipe.yaml, settings: {noise: 0.9}}", True),
        ("{loss: arcface, margin: 0.4, settings: {noise: 0.9}}", False),
        ("{loss: arcface, settings: {noise: 0.8}}", False),
        ("{loss: cosface, settings: {noise: 0.9}}", False),
        ("{loss: arcface, kappa: {estimator: memory}, settings: {noise: 0.9}}", False),
        ("{settings: {noise: 0.9}}", False),
    ],
)
def test_one_loss_under_two_titles_is_told(tmp_path, entry, is_told):
    read = read_experiment(write_experiment(tmp_path, f"{EXPERIMENT}  Twin: {entry}\n"))
    assert [note.split(".")[0] for note in read.notes()] == (
        ["Twin and ArcFace are the same loss with the same settings"] if is_told else []
    )


def test_names_of_folders():
    assert folder_name("Q-Margin (alpha 1.5, s 10)") == "Q-Margin_alpha_1.5_s_10"
    assert folder_name("../..") == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "seed:", "has the key 'seed': did you mean seeds"),
        ("home: checkout", "home: chekout", "home in .* is .*chekout, which is not a folder"),
        ("data: data", "data: nowhere", "data in .* is .*nowhere, which is not a folder"),
        ("trials: trials.txt", "trials: data", "trials in .* is not a file"),
        ("trials: trials.txt", "trials: 3", "trials in .* is 3: give a path"),
        ("out: out", "", "has no out"),
        ("[1, 2]", "[1, 1]", r"seeds in .* is \[1, 1\]"),
        ("[1, 2]", "[true]", r"seeds in .* is \[True\]"),
        ("[1, 2]", "3", "seeds in .* is 3"),
        ("devices: 2", "devices: 0", "devices in .* is 0"),
        ("devices: 2", "devices: [gpu]", r"devices in .* is \['gpu'\]"),
        ("devices: 2", "devices: [cuda:99]", "has cuda:99, but there are"),
        ("devices: 2", "devices: [[cpu, cuda]]", "devices in"),
        ("devices: 2", "devices: [cpu, [cpu, cpu]]", "the same number of ranks"),
        ("loss: q_margin", "loss: q-margin", "did you mean q_margin"),
        ("Q-Margin:", '"(ArcFace)":', "would have the folder 'ArcFace'"),
        ("devices: 2", "settings: 3", "settings in .* is 3"),
        ("toolkit: small", "toolkit: [", "is no YAML file"),
        ("Q-Margin:", "ArcFace:", r"line \d+ of .* has the key 'ArcFace' a second time"),
        ("out: out", "out: out\nout: other", r"line \d+ of .* has the key 'out' a second time"),
        ("noise: 0.2", "noise: 2e-1", r"line \d+ of .* has 2e-1, which YAML takes for text: write 0\.2"),
        ("out: out", "out: trials.txt", r"out in .* is .*trials\.txt, which is a file: give a folder"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in EXPERIMENT
    with pytest.raises(ValueError, match=message):
        read_experiment(write_experiment(tmp_path, EXPERIMENT.replace(old, new)))


def test_text_and_numbers_with_a_point_are_taken_as_they_are(tmp_path):
    text = EXPERIMENT.replace("noise: 0.2", 'noise: 2.0e-1, name: "2e-1"')
    assert read_experiment(write_experiment(tmp_path, text)).losses[1].settings == {"noise": 0.2, "name": "2e-1"}


def test_a_file_that_is_not_there_and_one_without_keys(tmp_path):
    with pytest.raises(ValueError, match="verimargin hparams"):
        read_experiment(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="it needs toolkit"):
        read_experiment(write_experiment(tmp_path, "- a\n"))


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("compare/")])
def test_the_shipped_experiments_can_be_read_once_their_paths_are_set(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    text = recipes.path(name).read_text().replace("/path/to", str(tmp_path))
    write_experiment(tmp_path)
    for line in text.splitlines():
        key, _, rest = line.partition(": ")
        if key in ("home", "data", "trials", "test_data"):
            assert "# *" in line or key == "test_data"
            place = tmp_path / rest.partition(" #")[0]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch() if key == "trials" else place.mkdir(exist_ok=True)
    (tmp_path / "experiment.yaml").write_text(text)
    read = read_experiment(tmp_path / "experiment.yaml")
    assert len(read.losses) >= 2
    for loss in read.losses:
        assert read.recipe_of(loss).is_file()
