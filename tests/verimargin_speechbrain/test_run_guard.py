import os
import shutil
import subprocess
import sys
from pathlib import Path

import killed
import pytest
import speechbrain as sb
import torch
import verimargin as vm
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from verimargin.files.run_record import NAME, read_record
from verimargin_speechbrain import (
    MarginCost,
    MarginSchedule,
    PrototypeClassifier,
    PrototypeCost,
    QMarginLoss,
    RandomState,
)
from verimargin_speechbrain import run_guard as core


def brain_in(folder, cost=None, classes=3, classifier=None, **more):
    """A Brain as the scripts make it from a stock recipe in which only the loss has been replaced."""
    cost = cost or QMarginLoss()
    classifier = classifier or torch.nn.Linear(4, classes)
    counter = EpochCounter(5)
    recoverables = {"classifier": classifier, "counter": counter, "random_state": RandomState(), **more}
    hparams = {"compute_cost": cost, "epoch_counter": counter}
    return sb.Brain(
        {"classifier": classifier}, lambda p: torch.optim.SGD(p, lr=0.1), hparams, {"device": "cpu"},
        Checkpointer(folder, recoverables),
    )  # fmt: skip


def train(folder, epochs=1, **options):
    """The number of epochs after resuming and going on."""
    brain = brain_in(folder, **options)
    brain.on_fit_start()
    counter = brain.hparams.epoch_counter
    for _ in range(epochs):
        next(counter)
        brain.checkpointer.save_and_keep_only(num_to_keep=1)
    return counter.current


def quality_cost(weight=0.5):
    return QMarginLoss(quality=vm.Quality(weight), embedding_model=torch.nn.Linear(2, 4))


def test_running_averages_have_to_be_saved(tmp_path):
    """A resumed run would begin them anew."""
    with pytest.raises(ValueError, match=r"list `compute_cost: !ref <compute_cost>` under modules and under the check"):
        brain_in(tmp_path, quality_cost())
    assert not list(tmp_path.iterdir())
    cost = quality_cost()
    brain_in(tmp_path, cost, compute_cost=cost)
    train(tmp_path / "other")
    cost = quality_cost()
    with pytest.raises(ValueError, match="loss is MarginLoss QMargin there and MarginLoss QMargin Quality here"):
        brain_in(tmp_path / "other", cost, compute_cost=cost)


def test_a_folder_belongs_to_one_loss(tmp_path):
    """The script loaded the other loss's finished run, trained nothing and ended as if all were well."""
    assert train(tmp_path) == 1
    assert train(tmp_path) == 2
    with pytest.raises(ValueError, match=r"another loss or other settings \(MarginLoss.scale is 10.0 "):
        train(tmp_path, cost=QMarginLoss(scale=5))
    with pytest.raises(
        ValueError, match=r"loss is MarginLoss QMargin there and MarginLoss CosMargin here.*: give this run"
    ):
        train(tmp_path, cost=MarginCost(vm.cosface(10.0, 0.2)))
    with pytest.raises(ValueError, match=r"\(out_neurons is 3 there and 5 here\)"):
        train(tmp_path, classes=5)
    with pytest.raises(ValueError, match=r"loss is MarginLoss QMargin there and LogSoftmaxWrapper "):
        train(tmp_path, cost=LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30)))
    assert read_record(tmp_path)["MarginLoss.scale"] == 10.0


def test_the_number_of_subcenters_stays(tmp_path):
    """torch named two shapes, and the recipe's sub-centres not."""

    def parts(subcenters):
        classifier = PrototypeClassifier(4, 3, vm.q_margin(), subcenters=subcenters)
        return {"classifier": classifier, "cost": PrototypeCost(classifier)}

    train(tmp_path, **parts(3))
    assert train(tmp_path, **parts(3)) == 2
    for other in (1, 2):
        with pytest.raises(ValueError, match=rf"\(subcenters is 3 there and {other} here\)"):
            train(tmp_path, **parts(other))


def test_a_run_of_the_stock_loss_is_not_gone_on_with(tmp_path):
    """The three-line change in the folder of the recipe that it was made in."""
    train(tmp_path)
    (tmp_path / NAME).unlink()
    with pytest.raises(
        ValueError, match=r"did not record its loss in verimargin.json, .* write {} to .*verimargin.json"
    ):
        train(tmp_path)
    (tmp_path / NAME).write_text("{}")
    assert train(tmp_path) == 2


def test_before_the_first_checkpoint_the_loss_may_change(tmp_path):
    brain_in(tmp_path)
    assert train(tmp_path, cost=QMarginLoss(scale=5)) == 1


def test_a_sparse_heads_loss_is_recorded_too(tmp_path):
    head = PrototypeClassifier(4, 6, vm.q_margin(1.5, 10.0))
    brain_in(tmp_path, cost=PrototypeCost(head))
    assert read_record(tmp_path)["MarginLoss.scale"] == 10.0


def test_the_brain_is_wrapped_once(tmp_path):
    QMarginLoss()
    wrapped = sb.Brain.__init__
    core.watch_brains()
    assert sb.Brain.__init__ is wrapped


@pytest.mark.parametrize(("epochs_before", "resumed_from"), [(0, {0}), (1, {1, 2})])
def test_after_a_kill_at_any_moment_the_next_run_goes_on(tmp_path, epochs_before, resumed_from):
    """An empty CKPT.yaml, an empty or cut file and a missing one each made every further run fail."""
    before, folder = tmp_path / "before", tmp_path / "run"
    train(before, epochs_before)
    killed.copy_of(before, folder)
    found, count = set(), 0
    for _ in killed.kills(lambda: train(folder), folder):
        found.add(resumed := train(folder, 0))
        assert train(folder) == resumed + 1
        count += 1
        killed.copy_of(before, folder)
    assert found == resumed_from
    assert count > 20, "there were places to be killed at"


def test_only_interrupted_checkpoints_are_set_aside(tmp_path):
    train(tmp_path)
    (good,) = tmp_path.glob("CKPT*")
    for name, harm in (
        ("no meta", lambda path: (path / "CKPT.yaml").unlink()),
        ("empty meta", lambda path: (path / "CKPT.yaml").write_bytes(b"")),
        ("cut meta", lambda path: (path / "CKPT.yaml").write_text("end-of-epoch: true\nunix")),
        ("empty counter", lambda path: (path / "counter.ckpt").write_bytes(b"")),
        (
            "cut weights",
            lambda path: (path / "classifier.ckpt").write_bytes((good / "classifier.ckpt").read_bytes()[:9]),
        ),
        ("not saved completely", lambda path: (path / core.MARK).unlink()),
    ):
        shutil.copytree(good, tmp_path / f"CKPT+{name}")
        harm(tmp_path / f"CKPT+{name}")
    brain_in(tmp_path)
    assert [path.name for path in tmp_path.glob("CKPT*")] == [good.name]
    assert len(list(tmp_path.glob("interrupted+CKPT+*"))) == 6


def test_what_its_owner_removed_from_a_checkpoint_is_not_missing_by_interruption(tmp_path):
    """Without its optimizer.ckpt, which some remove to save room, the only checkpoint was set aside."""
    train(tmp_path)
    (good,) = tmp_path.glob("CKPT*")
    (good / "optimizer.ckpt").unlink()
    brain_in(tmp_path)
    assert good.is_dir()


def test_what_a_checkpoint_lacks_is_named_unless_it_may_begin_anew(tmp_path):
    train(tmp_path)
    (good,) = tmp_path.glob("CKPT*")
    (good / "random_state.ckpt").unlink()  # it is new in the recipe
    assert train(tmp_path) == 2
    (good,) = tmp_path.glob("CKPT*")
    (good / "counter.ckpt").unlink()
    with pytest.raises(ValueError, match=r"has no counter.ckpt, which is among the recipe's recoverables"):
        brain_in(tmp_path)  # SpeechBrain would raise KeyError: 'counter'


def test_a_brain_without_anything_of_ours_is_left_alone(tmp_path):
    """Once a loss of ours existed in the process, each change of any loss was refused."""
    QMarginLoss()
    for smoothing in (0.0, 0.1):
        classifier = torch.nn.Linear(4, 3)
        cost = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        checkpointer = Checkpointer(tmp_path, {"classifier": classifier})
        sb.Brain({"classifier": classifier}, None, {"compute_cost": cost}, {"device": "cpu"}, checkpointer)
        checkpointer.save_checkpoint()
    assert not (tmp_path / NAME).exists()


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    """They removed each other's checkpoints."""
    brain_in(tmp_path)
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from test_run_guard import brain_in
brain_in({str(tmp_path)!r})
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert "another process is writing" in done.stderr


def scheduled_brain(folder, entries=(), **recoverables):
    cost = QMarginLoss()
    schedule = MarginSchedule(cost, margin=vm.Ramp(0.0, 0.2, end=4))
    given = {name: schedule if part is None else part for name, part in recoverables.items()}
    hparams = {"compute_cost": cost, **dict(entries)}
    modules = {"classifier": torch.nn.Linear(4, 3)}
    sb.Brain(modules, lambda p: torch.optim.SGD(p, lr=0.1), hparams, {"device": "cpu"}, Checkpointer(folder, given))
    return schedule


def test_a_schedule_that_would_not_be_resumed_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"not among the checkpointer's recoverables.*add `schedule: !ref <schedule>`"):
        scheduled_brain(tmp_path, counter=EpochCounter(5))
    schedule = scheduled_brain(tmp_path, counter=EpochCounter(5), schedule=None)
    assert read_record(tmp_path)["Schedule.margin"] == str(schedule.margin)


def test_a_schedule_of_another_loss_is_refused(tmp_path):
    lost = vm.Schedule(vm.q_margin(), margin=vm.Ramp(0.0, 0.2, end=4))
    with pytest.raises(ValueError, match="does not belong to its compute_cost, so that nothing would change"):
        scheduled_brain(tmp_path, {"schedule": lost}.items(), schedule=None)
