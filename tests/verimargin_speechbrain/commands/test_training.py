import os
import subprocess
import sys
from dataclasses import replace

import pytest
import verimargin as vm
from hyperpyyaml import load_hyperpyyaml
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.commands.comparison.losses import read_loss
from verimargin.commands.comparison.recipe_changes import difference
from verimargin.files import hparams as recipes
from verimargin_speechbrain.commands import training
from verimargin_speechbrain.commands.training import TOOLKIT, with_cost

EXPERIMENT = """
toolkit: speechbrain
home: checkout
recipe: train_ecapa_small.yaml
data: data
trials: data/veri_test.txt
out: out
seeds: [7]
settings: {number_of_epochs: 2, split_ratio: [80, 20]}
losses:
  theirs: {settings: {compute_cost: "!ref <costs[arcface]>"}}
  ours: {loss: q_margin, alpha: 1.5, scale: 10, margin: 0.2}
"""


def experiment_in(folder, old="", new=""):
    script = folder / "checkout" / training.RECIPES / training.SCRIPT
    script.parent.mkdir(parents=True, exist_ok=True)
    script.touch()
    (folder / "data").mkdir(exist_ok=True)
    for speaker in "opqr":  # q and r are trained
        (folder / "data" / "wav" / speaker / "s").mkdir(parents=True, exist_ok=True)
        (folder / "data" / "wav" / speaker / "s" / "0.wav").touch()
    (folder / "data" / "veri_test.txt").write_text("0 p/s/0.wav o/s/0.wav\n1 o/s/0.wav o/s/0.wav\n")
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.replace(old, new))
    return read_experiment(path)


def test_the_command_is_that_of_the_unmodified_script(tmp_path):
    experiment = experiment_in(tmp_path)
    TOOLKIT.check(experiment)
    theirs, ours = experiment.losses
    run = tmp_path / "run"
    run.mkdir()
    step = TOOLKIT.training(experiment, ours, 7, ["cpu"], run)
    assert step.folder == run
    assert step.command[:3] == [
        sys.executable,
        str(tmp_path / "checkout" / training.RECIPES / training.SCRIPT),
        "train_ecapa_small.yaml",
    ]
    flag = step.command.index("--noprogressbar")
    options = dict(zip(step.command[3:flag:2], step.command[4:flag:2]))
    assert options["--seed"] == "7"
    assert options["--data_folder"] == str(tmp_path / "data")
    assert options["--verification_file"] == str(tmp_path / "data" / "veri_test.txt")
    assert options["--output_folder"] == str(run / "train")
    assert options["--number_of_epochs"] == "2"
    assert options["--split_ratio"] == "[80, 20]"
    assert step.command[flag:] == ["--noprogressbar", "--device", "cpu"]
    shipped = recipes.path("train_ecapa_small.yaml").read_text()
    assert "verimargin.q_margin" in (run / "train_ecapa_small.yaml").read_text()
    assert "!ref <costs[arcface]>" in TOOLKIT.training(experiment, theirs, 7, ["cpu"], run).command
    assert (run / "train_ecapa_small.yaml").read_text() == shipped
    ranks = TOOLKIT.training(experiment, ours, 7, ["cuda:0", "cuda:1"], run).command
    assert ranks[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert "--device" not in ranks


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"loss": "q_margin", "alpha": 1.5, "scale": 10, "margin": 0.25}, vm.q_margin(1.5, 10, 0.25)),
        ({"loss": "arcface", "scale": 30, "margin": 0.2}, vm.arcface(30, 0.2)),
        ({"loss": "entmax", "alpha": 1.5, "scale": 10}, vm.entmax(1.5, 10)),
        ({"loss": "cosface"}, vm.cosface()),
    ],
)
def test_the_cost_is_the_loss(entry, expected):
    for name in ("train_ecapa_small.yaml", "train_ecapa_qmargin.yaml"):
        before = recipes.path(name).read_text()
        after = with_cost(before, read_loss("x", entry))
        keys = [[line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()] for text in (before, after)]
        assert keys[0] == keys[1]
        (line,) = (line for line in after.splitlines() if line.startswith("compute_cost:"))
        assert repr(load_hyperpyyaml(line)["compute_cost"].loss) == repr(expected)


def test_what_changes_in_the_recipe_is_what_the_run_is_given(tmp_path):
    experiment = experiment_in(tmp_path, "margin: 0.2}", "margin: 0.2, settings: {lr: 0.01, batch_size: 8, new: [1]}}")
    theirs, ours = experiment.losses
    before = recipes.path("train_ecapa_small.yaml").read_text()
    change = difference(before, TOOLKIT.with_loss(experiment, theirs)).splitlines()
    assert change == ["-compute_cost: !ref <costs[qmargin]>", "+compute_cost: !ref <costs[arcface]>"]
    after = TOOLKIT.with_loss(experiment, ours)
    assert difference(before, after).splitlines() == [
        *("-batch_size: 32", "-lr: 0.002", "+batch_size: 8", "+lr: 0.01"),
        "-compute_cost: !ref <costs[qmargin]>",
        '+compute_cost: !new:verimargin_speechbrain.MarginCost {loss: !apply:verimargin.q_margin {"alpha": 1.5, '
        '"scale": 10, "margin": 0.2}}',
        "+new: [1]",
    ]
    (line,) = (line for line in after.splitlines() if line.startswith("compute_cost:"))
    assert repr(load_hyperpyyaml(line)["compute_cost"].loss) == repr(vm.q_margin(1.5, 10, 0.2))


def test_a_value_keeps_the_comment_behind_it_and_a_mapping_its_other_keys():
    assert training.with_setting("a: 1 # one\nb: 2\n", "a", 3) == "a: 3 # one\nb: 2\n"
    assert training.with_setting("a:\n  c: 1\n# two\nb: 2\n", "a", 3) == "a: 3\nb: 2\n"
    merged = training.with_setting("a:\n  c: 1\n", "a", {"d": 2})
    assert merged.startswith("a:\n  c: 1\n")
    assert 'a: {"d": 2} # these keys of it' in merged


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("number_of_epochs", "number_of_epoch", "has no key 'number_of_epoch': did you mean number_of_epochs"),
        ("number_of_epochs: 2", "subcenters: 3", "no key 'subcenters': give it to PrototypeClassifier, .* copy of the"),
        ("number_of_epochs: 2", "schedule: {}", "add a MarginSchedule, as in train_ecapa_small_finetune.yaml"),
        ("number_of_epochs: 2", "pretrained: x", "call start_from, as in train_ecapa_small_finetune.yaml"),
        ("number_of_epochs: 2", "seed: 2", "settings have 'seed': give it as `seeds`"),
        ("train_ecapa_small.yaml", "train_ecapa_smal.yaml", "did you mean"),
        ("number_of_epochs: 2", "lr: abc", "settings have lr 'abc': give a number, as the recipe has 0.002"),
        ("number_of_epochs: 2", "number_of_epochs: 0", "settings have number_of_epochs 0: give a whole number"),
        ("number_of_epochs: 2", "batch_size: 2.5", "settings have batch_size 2.5: give a whole number"),
        ("train_ecapa_small.yaml", "verify_ecapa_small.yaml", "no compute_cost|has no key"),
        ("{loss: q_margin, alpha: 1.5, scale: 10, margin: 0.2}", "{loss: adaface}", "train_ecapa_small_quality.yaml"),
        ("loss: q_margin,", "loss: q_margin, kappa: {estimator: memory},", "which is for arcface_torch"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        TOOLKIT.check(experiment_in(tmp_path, old, new))


def test_a_list_of_other_recordings_is_refused(tmp_path):
    experiment = experiment_in(tmp_path)
    (tmp_path / "data" / "veri_test.txt").write_text("1 p/s/0.wav p/s/1.wav\n")
    with pytest.raises(ValueError, match=r"names p/s/1\.wav, which is not in"):
        TOOLKIT.check(experiment)


def test_the_classes_have_to_fit_the_training_speakers(tmp_path, caplog):
    with pytest.raises(ValueError, match="has 2 training speakers, the recipe has 1 classes: set out_n_neurons to 2"):
        TOOLKIT.check(experiment_in(tmp_path, "number_of_epochs: 2", "out_n_neurons: 1"))
    assert not caplog.records
    TOOLKIT.check(experiment_in(tmp_path, "number_of_epochs: 2", "out_n_neurons: 2"))
    assert not caplog.records
    TOOLKIT.check(experiment_in(tmp_path))
    assert [record.args[0] for record in caplog.records] == [227]  # of the recipe, once
    for_ours = "margin: 0.2, settings: {out_n_neurons: 1}}"
    with pytest.raises(ValueError, match="the recipe has 1 classes"):
        TOOLKIT.check(experiment_in(tmp_path, "margin: 0.2}", for_ours))
    with pytest.raises(ValueError, match="settings have out_n_neurons '2': give a number, as the recipe has 227"):
        TOOLKIT.check(experiment_in(tmp_path, "number_of_epochs: 2", 'out_n_neurons: "2"'))


def test_data_without_a_training_speaker_are_refused(tmp_path):
    experiment = experiment_in(tmp_path)
    for speaker in "qr":
        (tmp_path / "data" / "wav" / speaker / "s" / "0.wav").unlink()
    with pytest.raises(ValueError, match=r"data is refused: .* holds no training recording"):
        TOOLKIT.check(experiment)
    (tmp_path / "data" / "wav").rename(tmp_path / "data" / "waves")
    with pytest.raises(ValueError, match=r"data is refused: .* has no folder 'wav'"):
        TOOLKIT.check(experiment)


def test_wrong_test_data_are_refused_by_their_key(tmp_path):
    experiment = replace(experiment_in(tmp_path), test_data=tmp_path / "checkout")
    with pytest.raises(ValueError, match=r"test_data is refused: .* has no folder 'wav'"):
        TOOLKIT.check(experiment)


def test_test_data_may_be_elsewhere(tmp_path, caplog):
    experiment = experiment_in(tmp_path, "number_of_epochs: 2", "out_n_neurons: 2")
    (tmp_path / "test" / "wav").mkdir(parents=True)
    for speaker in "op":
        (tmp_path / "data" / "wav" / speaker).rename(tmp_path / "test" / "wav" / speaker)
    elsewhere = replace(experiment, test_data=tmp_path / "test")
    TOOLKIT.check(elsewhere)
    assert not caplog.records
    overrides = f"data_folder: {experiment.data}\nverification_file: {experiment.trials}\nout_n_neurons: 2"
    load_hyperpyyaml(recipes.path("train_ecapa_small.yaml").read_text(), overrides)
    for speaker in "op":
        (tmp_path / "data" / "wav" / speaker).mkdir()
    with pytest.raises(ValueError, match=r"data is refused: .* names o/s/0\.wav, which is not in"):
        TOOLKIT.check(elsewhere)


def test_a_tested_speaker_who_would_be_trained_on_is_refused(tmp_path):
    experiment = experiment_in(tmp_path)
    (tmp_path / "data" / "veri_test.txt").write_text("1 p/s/0.wav p/s/0.wav\n0 p/s/0.wav q/s/0.wav\n")
    with pytest.raises(ValueError, match="data is refused: SpeechBrain's preparation would train on q"):
        TOOLKIT.check(experiment)


def test_what_stands_elsewhere_is_in_the_recipes_that_are_named():
    sparse, fine = (recipes.path(f"train_ecapa_{kind}.yaml").read_text() for kind in ("sparse", "small_finetune"))
    assert "verimargin_speechbrain.PrototypeClassifier" in sparse
    assert "verimargin_speechbrain.MarginSchedule" in fine
    assert "verimargin_speechbrain.start_from" in fine


def test_options_of_the_script_are_no_keys_of_the_recipe(tmp_path):
    TOOLKIT.check(experiment_in(tmp_path, "number_of_epochs: 2", "precision: bf16"))


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    experiment = experiment_in(tmp_path)
    (tmp_path / "checkout" / training.RECIPES / training.SCRIPT).unlink()
    with pytest.raises(ValueError, match="give a checkout of SpeechBrain as home"):
        TOOLKIT.check(experiment)


@pytest.mark.slow
def test_a_run_of_the_real_script(upstream_recipe, voxceleb_layout, tmp_path):
    tiny = "channels: 16, emb_dim: 24, sentence_len: 1.0, batch_size: 64, steps_per_epoch: 29, step_size: 29"
    path = tmp_path / "experiment.yaml"
    text = EXPERIMENT.replace("number_of_epochs: 2, split_ratio: [80, 20]", f"number_of_epochs: 1, {tiny}")
    text = text.replace("home: checkout", f"home: {upstream_recipe}").replace("data/veri", f"{voxceleb_layout}/veri")
    path.write_text(text.replace("data: data", f"data: {voxceleb_layout}"))
    experiment = read_experiment(path)
    TOOLKIT.check(experiment)
    run = tmp_path / "run"
    run.mkdir()
    step = TOOLKIT.training(experiment, experiment.losses[1], 7, ["cpu"], run)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(step.command, cwd=step.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((run / "train" / "save").glob("CKPT*/embedding_model.ckpt"))
