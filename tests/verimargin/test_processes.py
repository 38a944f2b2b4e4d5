import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from verimargin._processes import cpus, run_each

# Jobs are functions of a module, which their processes import.


def counting(folder, number, send):
    for k in range(number):
        send(k)
    (folder / str(number)).write_text(str(torch.get_num_threads()))


def failing(kind, send):
    send("about to fail")
    if kind == "told":
        raise ValueError("margin is -1")
    if kind == "untold":
        raise KeyError("unexpected")
    os.kill(os.getpid(), signal.SIGKILL)


def writing_for_ever(path, send):
    send(os.getpid())
    while True:
        path.touch()
        time.sleep(0.02)


def test_each_job_sends_its_messages_in_order_and_is_done_once(tmp_path):
    jobs = {f"job {n}": (tmp_path, n) for n in range(cpus() + 2)}
    received = {name: [] for name in jobs}
    for name, message in run_each(counting, jobs):
        received[name].append(message)
    assert received == {f"job {n}": [*range(n), None] for n in range(cpus() + 2)}
    assert {path.read_text() for path in tmp_path.iterdir()} == {"1"}


def test_without_jobs_nothing_happens():
    assert list(run_each(counting, {})) == []


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("told", ValueError, r"^margin is -1$"),
        ("untold", RuntimeError, "the process of x ended with status 1: its error is above"),
        ("killed", RuntimeError, "the process of x ended with status -9"),
    ],
)
def test_a_job_that_fails_is_named(kind, error, text):
    received = run_each(failing, {"x": (kind,)})
    assert next(received) == ("x", "about to fail")
    with pytest.raises(error, match=text):
        next(received)


def ends(pid):
    for _ in range(500):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.02)
    return False


def test_jobs_end_with_who_started_them(tmp_path):
    received = run_each(writing_for_ever, {"x": (tmp_path / "x",)})
    _, pid = next(received)
    received.close()
    assert ends(pid)


def test_jobs_end_when_who_started_them_is_killed(tmp_path):
    """A killed demo's training wrote on, into the folder of the demo that resumed it."""
    code = (
        "import pathlib, test_processes as t\n"
        "if __name__ == '__main__':\n"
        f"    found = t.run_each(t.writing_for_ever, {{'x': (pathlib.Path({str(tmp_path / 'x')!r}),)}})\n"
        "    print(next(found)[1], flush=True)\n"
        "    next(found)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as starter:
        pid = int(starter.stdout.readline())
        starter.kill()
    assert ends(pid)


def test_a_script_is_not_run_again_by_its_jobs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from test_processes import counting\n"
        "from verimargin._processes import run_each\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with (folder / 'runs').open('a') as file:\n"
        "    file.write('once')\n"
        "assert len(list(run_each(counting, {'a': (folder, 1), 'b': (folder, 2)}))) == 5\n"  # no `if __name__ ...`
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, script], check=True, env={**os.environ, "PYTHONPATH": path})
    assert (tmp_path / "runs").read_text() == "once"
