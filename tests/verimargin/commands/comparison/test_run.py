import json
from dataclasses import replace

import pytest
from small_experiment import EXPERIMENT, write_experiment
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.commands.comparison.run import expected_seconds, runs_of


def runs_in(tmp_path, text=EXPERIMENT):
    return runs_of(read_experiment(write_experiment(tmp_path, text)))


def finish(run, seconds):
    run.begin({})
    run.note("train", seconds - 1.0, True)
    run.note("evaluate", 1.0, True)


def test_each_loss_is_run_with_the_first_seed_first(tmp_path):
    assert [run.title for run in runs_in(tmp_path)] == [
        "ArcFace, seed 1", "Q-Margin, seed 1", "ArcFace, seed 2", "Q-Margin, seed 2",
    ]  # fmt: skip


def test_the_state_of_a_run_is_kept(tmp_path):
    run = runs_in(tmp_path)[0]
    run.begin({"torch": "2.11"})
    assert not run.finished
    run.note("train", 3.0, True)
    run.note("evaluate", 0.5, False)
    again = runs_in(tmp_path)[0]
    assert again.seconds == 3.5
    assert not again.finished
    again.note("evaluate", 2.0, True)
    assert run.finished
    assert json.loads((run.folder / "versions.json").read_text()) == {"torch": "2.11"}
    assert json.loads((run.folder / "settings.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha: 1.5", "alpha: 1.25", r"loss is .*1.5.* there and .*1.25.* here"),
        ("noise: 0.2", "noise: 0.3", "settings is .*0.2.* there and .*0.3.* here"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, old, new, message):
    runs_in(tmp_path)[1].begin({})
    with pytest.raises(ValueError, match=message):
        runs_in(tmp_path, EXPERIMENT.replace(old, new))


def test_a_changed_recipe_is_refused_and_more_seeds_are_not(tmp_path):
    runs_in(tmp_path)[1].begin({})
    assert len(runs_in(tmp_path, EXPERIMENT.replace("[1, 2]", "[1, 2, 3]"))) == 6
    read = read_experiment(write_experiment(tmp_path))
    (tmp_path / "recipe.yaml").write_text("noise: 1\n")
    with pytest.raises(ValueError, match="recipe's digest"):
        runs_of(read)


def test_the_time_to_come_is_that_of_the_same_loss(tmp_path):
    arcface, ours, other_arcface, _ = runs = runs_in(tmp_path)
    assert expected_seconds(ours, runs) is None
    finish(arcface, 100.0)
    assert expected_seconds(ours, runs) == 100.0  # of another loss, better than nothing
    finish(ours, 60.0)
    assert expected_seconds(other_arcface, runs) == 100.0
    other_arcface.begin({})
    other_arcface.note("train", 30.0, False)
    assert expected_seconds(other_arcface, runs) == 70.0


def test_the_last_lines_of_a_log(tmp_path):
    run = runs_in(tmp_path)[0]
    assert run.last_lines() == ""
    run.begin({})
    (run.folder / "log.txt").write_text("\n".join(f"line {n}\n" for n in range(50)) + "\nbar 1\rbar 2\n")
    assert run.last_lines().splitlines()[-3:] == ["line 49", "bar 1", "bar 2"]
    assert len(run.last_lines().splitlines()) == 12


def test_the_reason_of_a_failure_is_found_before_the_footer_of_torchrun(tmp_path):
    """The report showed nothing but the footer, whatever had gone wrong."""
    run = runs_in(tmp_path)[0]
    run.begin({})
    footer = [
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        *(f"footer {n}" for n in range(20)),
    ]
    text = ["Traceback:", "[rank0]: ValueError: a has 5 classes: set it to 5", "ChildFailedError: at 1", *footer]
    (run.folder / "log.txt").write_text("\n".join(text))
    assert run.last_lines().splitlines()[0] == "[rank0]: ValueError: a has 5 classes: set it to 5"
    assert run.last_lines().splitlines()[-1] == "footer 19"


def test_a_damaged_state_is_named(tmp_path):
    run = runs_in(tmp_path)[0]
    run.begin({})
    (run.folder / "state.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run.state()
    assert replace(run, seed=9).title == "ArcFace, seed 9"
