import csv
import os
import random
import signal
import time

import numpy as np
import pytest
from small_speech import CORPUS, TINY
from verimargin import metrics
from verimargin_speechbrain.commands import demo


def test_the_demo_reports_resumes_and_refuses_other_settings(tmp_path, capsys):
    output = tmp_path / "demo"
    results = demo.run(output, 0, CORPUS, number_of_epochs=1, **TINY)
    report = (output / "report.md").read_text()
    assert all(title in report for title in demo.LOSSES.values())
    assert (output / "det.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "Synthesising 10 speakers" in printed
    assert [
        printed.count(f"Training {n} of 3, {title}: 1 epochs") for n, title in enumerate(demo.LOSSES.values(), 1)
    ] == [1] * 3
    with open(output / "table.csv", newline="") as file:
        table = {(row["method"], row["figure"]): row for row in csv.DictReader(file)}
    lines = (output / "corpus" / "veri_test.txt").read_text().splitlines()
    same = np.array([line.startswith("1") for line in lines])
    for loss, title in demo.LOSSES.items():
        row, interval = table[title, "EER %"], results[title].figures["EER %"].interval
        scores = np.load(output / loss / "scores.npz")["scores"]
        assert float(row["value"]) == pytest.approx(100 * metrics.eer(scores[same], scores[~same])[0], rel=1e-5)
        assert interval.low <= interval.high == pytest.approx(float(row["high"]), rel=1e-5)
    assert not list(output.rglob("*partial*"))
    (output / "qmargin" / "scores.npz").unlink()  # as if interrupted: only this is done again
    kept = (output / "arcface" / "scores.npz").stat().st_mtime_ns
    before = (output / "table.csv").read_text()
    demo.run(output, 0, CORPUS, number_of_epochs=1, **TINY)
    assert (output / "arcface" / "scores.npz").stat().st_mtime_ns == kept
    assert (output / "table.csv").read_text() == before
    printed = capsys.readouterr().out
    assert "Speech: synthesised before" in printed
    assert printed.count("trained and scored before") == 2
    with pytest.raises(ValueError, match="holds a demo with other settings"):
        demo.run(output, 1, CORPUS, number_of_epochs=1, **TINY)
    with pytest.raises(ValueError, match="seed is -1"):
        demo.run(tmp_path / "bad", -1, CORPUS)
    assert not (tmp_path / "bad").exists()
    with pytest.raises(ValueError, match=r"settings\.json is a file"):
        demo.run(output / "settings.json", 0, CORPUS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        demo.run(tmp_path / "full", 0, CORPUS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_after_sixty_kills_at_random_moments_the_demo_is_as_if_uninterrupted(tmp_path):
    """7 of 60 left a folder in which it never started again."""
    draw = random.Random(0)

    def run(output):
        demo.run(output, 0, CORPUS, number_of_epochs=2, **TINY)

    def forked(output, seconds):
        """The exit status of a demo that is killed after some seconds; None if it was killed."""
        pid = os.fork()
        if pid == 0:
            try:
                run(output)
                os._exit(0)
            except BaseException as error:
                print(error, flush=True)
                os._exit(1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)

    began = time.monotonic()
    assert forked(tmp_path / "whole", 1000) == 0
    took = time.monotonic() - began
    kills, number = 0, 0
    while kills < 60:
        output = tmp_path / f"killed{number}"
        status = forked(output, draw.uniform(0, took / 2))
        assert status in (None, 0)
        kills += status is None
        if status == 0:
            table = (output / "table.csv").read_text()
            assert table == (tmp_path / "whole" / "table.csv").read_text()
            number += 1
    assert forked(output, 1000) == 0
    assert not list(output.rglob(".*.partial*"))
