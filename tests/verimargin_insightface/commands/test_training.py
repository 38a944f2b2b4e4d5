import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.files.run_record import read_record
from verimargin_insightface.commands.training import TOOLKIT, mirror

EXPERIMENT = """
toolkit: arcface_torch
home: checkout
recipe: cpu_mbf_qmargin.py
data: data
trials: trials.txt
test_data: test
out: out
seeds: [7]
settings: {num_classes: 3, num_image: 12, num_epoch: 1, batch_size: 4, num_workers: 0}
losses:
  theirs: {recipe: configs/theirs.py}
  ours: {loss: q_margin, alpha: 1.5, scale: 10, margin: 0.2}
"""

THEIRS = """config = edict()
config.num_classes = 3
config.batch_size = 4
config.warmup_epoch = 0
config.val_targets = []
"""
TRIALS = "1 t0/0.png t0/1.png\n0 t0/0.png t1/0.png\n"


def experiment_in(folder, old="", new=""):
    home = folder / "checkout" / "recognition" / "arcface_torch"
    (home / "configs" / "__pycache__").mkdir(parents=True, exist_ok=True)
    (home / "backbones").mkdir(exist_ok=True)
    (home / "train_v2.py").write_text("")
    (home / "configs" / "__init__.py").write_text("")
    (home / "configs" / "base.py").write_text(
        "config.network = 'r50'\nconfig.resume = False\nconfig.num_workers = 2\nconfig.lr = 0.1\n"
    )
    (folder / "checkout" / "configs").mkdir(exist_ok=True)
    (folder / "checkout" / "configs" / "theirs.py").write_text(THEIRS)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "p0").mkdir(exist_ok=True)
    for name in ("data/p0/0", "data/p0/1", "test/t0/0", "test/t0/1", "test/t1/0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").touch()
    (folder / "trials.txt").write_text(TRIALS)
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.replace(old, new))
    return read_experiment(path)


def test_the_script_runs_in_a_mirror_with_a_config_of_its_own(tmp_path):
    experiment = experiment_in(tmp_path, ", num_workers: 0")
    (tmp_path / "run").mkdir()
    step = TOOLKIT.training(experiment, experiment.losses[1], 7, ["cpu", "cpu"], tmp_path / "run")
    checkout = tmp_path / "run" / "checkout"
    assert step.folder == checkout
    assert step.command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert step.command[5:] == ["-m", "verimargin_insightface", "train_v2.py", "configs/compared.py"]
    assert (checkout / "train_v2.py").is_symlink()
    assert (checkout / "configs" / "base.py").is_symlink()
    assert not (checkout / "configs" / "__pycache__").exists()
    text = (checkout / "configs" / "compared.py").read_text()
    assert '"seed": 7' in text
    assert '"num_epoch": 1' in text
    assert str(tmp_path / "run" / "train") in text
    assert not (tmp_path / "checkout" / "recognition" / "arcface_torch" / "configs" / "compared.py").exists()
    assert mirror(tmp_path / "checkout" / "recognition" / "arcface_torch", checkout) == checkout  # again
    assert (tmp_path / "checkout" / "recognition" / "arcface_torch" / "train_v2.py").is_file()


def test_what_changes_in_the_recipe_is_told(tmp_path):
    experiment = experiment_in(tmp_path)
    theirs, ours = (TOOLKIT.with_loss(experiment, loss) for loss in experiment.losses)
    assert theirs == (tmp_path / "checkout" / "configs" / "theirs.py").read_text()
    assert "config.loss = vm.q_margin(alpha=1.5, scale=10, margin=0.2)" in ours


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_epoch", "num_epochs", "has 'num_epochs': did you mean num_epoch"),
        ("num_epoch: 1", "schedule: {}", r"set config.schedule before register\(config\) in a copy of theirs.py, and"),
        ("num_epoch: 1", "pretrained: x", r"set config.pretrained before register\(config\) in a copy of theirs.py"),
        ("num_epoch: 1", "subcenters: 3", "the loss 'theirs' is that of theirs.py, where nothing reads .*'subcenters'"),
        ("num_epoch: 1", "seed: 1", "settings have 'seed': give it as `seeds`"),
        ("num_epoch: 1", "resume: true", "each run saves all states and is resumed"),
        ("cpu_mbf_qmargin.py", "cpu_mbf_qmargn.py", "did you mean"),
        ("loss: q_margin, alpha: 1.5, scale: 10, margin: 0.2", "loss: kappaface, num_classes: 3", "add kappa"),
        ("{recipe: configs/theirs.py}", "{kappa: {estimator: memory}}", "has kappa and no loss"),
        ("home: checkout", "home: data", "give a checkout of InsightFace as home"),
        ("num_epoch: 1", "lr: abc", "settings have lr 'abc': give a number, as the recipe has 0.1"),
        ("batch_size: 4", 'batch_size: "8"', "settings have batch_size '8': give a number, as the recipe has"),
        ("num_image: 12", "num_image: 0", "settings have num_image 0: give a whole number of at least 1"),
        ("num_epoch: 1", "num_epoch: 2.5", "settings have num_epoch 2.5: give a whole number of at least 1"),
        ("batch_size: 4", "batch_size: 0", "settings have batch_size 0: give a whole number of at least 1"),
        ("margin: 0.2}", "margin: 0.2, kappa: {momentm: 0.9}}", "kappa of 'ours' is refused: .* has 'momentm'"),
        ("margin: 0.2}", "margin: 0.2, kappa: {momentum: 5}}", "kappa of 'ours' is refused: momentum is 5"),
        ("margin: 0.2}", "margin: 0.2, kappa: {estimator: nope}}", "kappa of 'ours' is refused: estimator is 'nope'"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        TOOLKIT.check(experiment_in(tmp_path, old, new))


def test_kappa_is_taken(tmp_path):
    loss = "loss: kappaface, num_classes: 3, kappa: {estimator: memory}"
    TOOLKIT.check(experiment_in(tmp_path, "loss: q_margin, alpha: 1.5, scale: 10, margin: 0.2", loss))


def test_subcenters_and_screening_are_settings_of_our_losses(tmp_path):
    given = "margin: 0.2, settings: {subcenters: 3, screening: float16}}"
    experiment = experiment_in(tmp_path, "margin: 0.2}", given)
    TOOLKIT.check(experiment)
    (tmp_path / "run").mkdir()
    TOOLKIT.training(experiment, experiment.losses[1], 7, ["cpu"], tmp_path / "run")
    config = (tmp_path / "run" / "checkout" / "configs" / "compared.py").read_text()
    assert '"subcenters": 3, "screening": "float16"' in config


def test_a_list_of_images_needs_their_folder(tmp_path):
    experiment = experiment_in(tmp_path)
    with pytest.raises(ValueError, match="names images, but no folder is given: give theirs as test_data"):
        TOOLKIT.check(replace(experiment, test_data=None))
    with pytest.raises(ValueError, match=r"t0/0\.png and 2 more, .* give the folder of the images as test_data"):
        TOOLKIT.check(replace(experiment, test_data=tmp_path / "checkout"))


def test_the_classes_have_to_fit_the_training_set(tmp_path, caplog):
    for n in range(1, 4):
        (tmp_path / "data" / f"p{n}").mkdir(parents=True)
        (tmp_path / "data" / f"p{n}" / "0.png").touch()
    message = "data is refused: .* has 4 classes, config.num_classes is 3: set it to 4"
    with pytest.raises(ValueError, match=message):
        TOOLKIT.check(experiment_in(tmp_path))
    TOOLKIT.check(experiment_in(tmp_path, "num_classes: 3", "num_classes: 4"))
    assert not [record for record in caplog.records if "num_classes" in record.message]
    with pytest.raises(ValueError, match=message):  # of configs/theirs.py
        TOOLKIT.check(experiment_in(tmp_path, "num_classes: 3, ", ""))
    with pytest.raises(ValueError, match=r"settings have num_classes 4.0: give a whole number of at least 1"):
        TOOLKIT.check(experiment_in(tmp_path, "num_classes: 3", "num_classes: 4.0"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "trials is refused: .* is empty"),
        (TRIALS.splitlines()[0], "trials is refused: .* has no non-target trial"),
        (TRIALS + TRIALS.splitlines()[0], "trials is refused: .* lists 1 trials more than once"),
    ],
)
def test_a_list_that_could_not_be_scored_is_refused_before_anything_is_trained(tmp_path, lines, message):
    experiment = experiment_in(tmp_path)
    (tmp_path / "trials.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        TOOLKIT.check(experiment)


def test_identities_that_are_trained_and_tested_are_told(tmp_path, caplog):
    (tmp_path / "data" / "t1").mkdir(parents=True)
    experiment = experiment_in(tmp_path)
    TOOLKIT.check(experiment)
    assert "1 identities of the trials, such as t1, are in the training data" in caplog.text
    (tmp_path / "data" / "t0").mkdir()
    for name in ("0", "1"):
        (tmp_path / "data" / "p0" / f"{name}.png").unlink()
    (tmp_path / "data" / "p0").rmdir()
    with pytest.raises(ValueError, match="trials and data have the same identities, such as t0: test on others"):
        TOOLKIT.check(experiment)


def test_another_number_of_images_is_told(tmp_path, caplog):
    TOOLKIT.check(experiment_in(tmp_path))
    assert "config.num_image is 12, and" in caplog.text
    assert "has 2 images: train_v2.py spreads the learning rate over num_image" in caplog.text
    caplog.clear()
    TOOLKIT.check(experiment_in(tmp_path, "num_image: 12", "num_image: 2"))
    assert "num_image" not in caplog.text


def test_what_is_no_training_set_is_refused(tmp_path):
    experiment = experiment_in(tmp_path)
    (tmp_path / "data" / "p0").rename(tmp_path / "p0")
    with pytest.raises(ValueError, match=r"data is refused: .* neither train.rec and train.idx nor a folder for each"):
        TOOLKIT.check(experiment)
    (tmp_path / "data" / "train" / "p0").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data is refused: .* would be one class, but holds only folders"):
        TOOLKIT.check(experiment)


def test_a_config_without_what_the_script_needs_is_refused(tmp_path):
    experiment = experiment_in(tmp_path, "num_image: 12, ")
    (tmp_path / "checkout" / "configs" / "theirs.py").write_text("config = edict()\nconfig.batch_size = 4\n")
    message = "theirs.py has no num_image, warmup_epoch, val_targets: give num_image under `settings`"
    with pytest.raises(ValueError, match=message):
        TOOLKIT.check(experiment)
    (tmp_path / "checkout" / "configs" / "theirs.py").write_text("from other import config\nconfig.batch_size = 4\n")
    TOOLKIT.check(experiment)


@pytest.mark.slow
def test_a_run_of_the_real_script(arcface_torch, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for person in range(3):
        folder = tmp_path / "data" / f"p{person}"
        folder.mkdir(parents=True)
        for n in range(4):
            Image.fromarray(random.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    for name in ("t0/0", "t0/1", "t1/0"):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / f"{name}.png").touch()
    (tmp_path / "trials.txt").write_text(TRIALS)
    path = tmp_path / "experiment.yaml"
    text = EXPERIMENT.replace("home: checkout", f"home: {arcface_torch}")
    path.write_text(text.replace("configs/theirs.py", "configs/ms1mv3_mbf.py"))
    experiment = read_experiment(path)
    TOOLKIT.check(experiment)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for loss in experiment.losses:
        run = tmp_path / loss.title
        run.mkdir()
        step = TOOLKIT.training(experiment, loss, 7, ["cpu"], run)
        done = subprocess.run(step.command, cwd=step.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        assert (run / "train" / "model.pt").is_file()
        assert (run / "train" / "checkpoint_gpu_0.pt").is_file()
    assert read_record(tmp_path / "theirs" / "train") is None
    assert read_record(tmp_path / "ours" / "train")["loss"] == "MarginLoss QMargin"
