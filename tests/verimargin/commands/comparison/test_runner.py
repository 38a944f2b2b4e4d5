import io
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console
from small_experiment import EXPERIMENT, SmallToolkit, evaluation, write_experiment
from verimargin.commands.comparison import runner
from verimargin.commands.comparison.experiment import read_experiment
from verimargin.commands.comparison.run import runs_of
from verimargin.commands.comparison.runner import environment, run_all, seen
from verimargin.commands.comparison.toolkit import Step


def run_experiment(tmp_path, text=EXPERIMENT):
    """The runs, those that failed, and what was printed."""
    experiment = read_experiment(write_experiment(tmp_path, text))
    runs, toolkit = runs_of(experiment), SmallToolkit()

    def steps(run, devices):
        training = toolkit.training(experiment, run.loss, run.seed, devices, run.folder)
        return [training, evaluation(experiment, run.folder, devices[0], training.folder)]

    console = Console(record=True, width=200, file=io.StringIO())
    return runs, run_all(runs, experiment.devices, steps, {}, console), console.export_text()


def test_all_runs_are_finished_and_a_second_call_does_nothing(tmp_path):
    runs, failures, printed = run_experiment(tmp_path)
    assert failures == []
    assert all(run.finished and run.scores.is_file() for run in runs)
    assert "Q-Margin, seed 2: finished after 0:00:0" in printed
    log = (runs[0].folder / "log.txt").read_text()
    assert "epoch 2" in log
    assert (runs[0].folder / "commands.txt").read_text().count("train.py") == 1
    assert run_experiment(tmp_path)[2].strip() == ""


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path):
    text = EXPERIMENT.replace("noise: 0.9", "noise: 0.9, fail: 2")
    runs, failures, _ = run_experiment(tmp_path, text)
    assert [failure.run.title for failure in failures] == ["ArcFace, seed 2"]
    assert failures[0].reason == "train ended with status 1"
    assert "no more data" in failures[0].log
    assert [run.finished for run in runs] == [True, True, False, True]
    first = (runs[2].folder / "train" / "epoch0").read_text()
    _, failures, _ = run_experiment(tmp_path, text)
    assert len(failures) == 1
    assert (runs[2].folder / "train" / "epoch0").read_text() == first  # it went on after it


def test_several_runs_go_on_at_once(tmp_path):
    """Three epochs of 0.4 s in four runs take 4.8 s one after the other."""
    text = EXPERIMENT.replace("devices: 2", "devices: 4\nsettings: {wait: 0.4}")
    runs, _, _ = run_experiment(tmp_path, text)
    times = [float((run.folder / "train" / f"epoch{n}").read_text()) for run in runs for n in range(3)]
    assert max(times) - min(times) < 4.0
    first = [float((run.folder / "train" / "epoch0").read_text()) for run in runs]
    last = [float((run.folder / "train" / "epoch2").read_text()) for run in runs]
    assert max(first) < min(last)


def test_an_interruption_ends_the_programs(tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    begun, interrupted = time.monotonic(), []

    def interrupt(seconds):
        if len(processes) == 2 and time.monotonic() > begun + 0.5 and not interrupted:
            interrupted.append(True)
            raise Interrupted
        original(seconds)

    original = time.sleep
    processes = []
    popen = subprocess.Popen
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *a, **k: processes.append(popen(*a, **k)) or processes[-1])
    monkeypatch.setattr(runner.time, "sleep", interrupt)
    with pytest.raises(Interrupted):
        run_experiment(tmp_path, EXPERIMENT.replace("devices: 2", "devices: 2\nsettings: {wait: 60}"))
    assert len(processes) == 2
    assert all(process.poll() == -signal.SIGTERM for process in processes)


def test_the_programs_of_a_killed_compare_end_and_the_next_one_goes_on(tmp_path):
    text = EXPERIMENT.replace("devices: 2", "devices: 2\nsettings: {wait: 0.5}")
    code = f"import sys, pathlib; sys.path[:0] = {sys.path!r}; import test_runner; " + (
        f"test_runner.run_experiment(pathlib.Path({str(tmp_path)!r}), {text!r})"
    )
    here = os.path.dirname(__file__)
    process = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r}); {code}"])
    first = tmp_path / "out" / "runs" / "ArcFace" / "1" / "train" / "epoch0"
    until = time.monotonic() + 120
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = first.read_text()
    runs, failures, _ = run_experiment(tmp_path, text)
    assert failures == []
    assert all(run.finished for run in runs)
    assert first.read_text() == before
    log = (runs[0].folder / "log.txt").read_text()
    assert [log.count(f"epoch {n}\n") for n in range(3)] == [1, 1, 1]


def test_a_program_that_still_works_in_a_folder_is_waited_for(tmp_path, monkeypatch):
    import fcntl

    experiment = read_experiment(write_experiment(tmp_path))
    run = runs_of(experiment)[0]
    run.begin({})
    held = os.open(run.folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(runner, "GRACE", 0.3)
    with pytest.raises(ValueError, match="still works in"):
        runner._lock(run, Console(quiet=True))
    os.close(held)
    os.close(runner._lock(run, Console(quiet=True)))


def test_what_a_run_sees_of_the_devices(monkeypatch):
    assert seen(["cuda:3", "cuda:5"]) == ["cuda:0", "cuda:1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment(["cuda:3", "cuda:5"], 2) == {"CUDA_VISIBLE_DEVICES": "3,5"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert environment(["cuda:1"], 2) == {"CUDA_VISIBLE_DEVICES": "6"}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert environment(["cpu"], 4) == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}


def test_a_program_killed_from_outside_is_a_failure(tmp_path):
    experiment = read_experiment(write_experiment(tmp_path, EXPERIMENT.replace("[1, 2]", "[1]")))
    runs = runs_of(experiment)
    kill = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    failures = run_all(runs[:1], [["cpu"]], lambda run, _: [Step("train", kill, tmp_path)], {}, Console(quiet=True))
    assert failures[0].reason == "train ended with signal SIGKILL"
