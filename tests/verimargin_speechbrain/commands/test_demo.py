import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_speech import CORPUS, TINY
from verimargin import metrics
from verimargin.commands.demo_scores import METHODS
from verimargin_speechbrain.commands import demo


def tables(output):
    return [(output / name).read_text() for name in ("table.csv", "differences.csv") if (output / name).exists()]


def weights(output):
    """The bytes of the models and of KappaFace in all checkpoints, by loss and file."""
    return {
        (path.parents[2].name, path.name): path.read_bytes()
        for path in output.glob("*/save/CKPT*/*.ckpt")
        if path.stem in ("embedding_model", "classifier", "kappa", "random_state")
    }


def test_the_demo_reports_resumes_and_refuses_other_settings(tmp_path, capsys):
    output = tmp_path / "demo"
    results = demo.run(output, 0, CORPUS, number_of_epochs=2, **TINY)
    printed = capsys.readouterr().out
    assert results.keys() == {(loss, method) for loss in demo.LOSSES for method in METHODS}
    report = (output / "report.md").read_text()
    assert all(loss.title in report for loss in demo.LOSSES.values())
    assert all(f"{loss.title}: begins" in printed for loss in demo.LOSSES.values())
    with open(output / "table.csv", newline="") as file:
        table = {(row["method"], row["figure"]): float(row["value"]) for row in csv.DictReader(file)}
    same = np.kron(np.eye(4), np.ones((3, 3)))[np.triu_indices(12, 1)] > 0
    for (name, method), result in results.items():
        scores = np.load(output / name / "scores.npz")[method]
        expected = 100 * metrics.eer(scores[same], scores[~same])[0]
        assert table[f"{demo.LOSSES[name].title}, {METHODS[method]}", "EER %"] == pytest.approx(expected, rel=1e-5)
        assert result.figures["EER %"].value == pytest.approx(expected)
    assert not list(output.rglob("*partial*"))
    (output / "adaptive" / "scores.npz").unlink()  # as if interrupted: only this is done again
    kept = (output / "arcface" / "scores.npz").stat().st_mtime_ns
    before = tables(output)
    demo.run(output, 0, CORPUS, number_of_epochs=2, **TINY)
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{demo.LOSSES['arcface'].title}: trained and scored before, in {output / 'arcface'}" in printed
    assert f"{demo.LOSSES['adaptive'].title}: resumes after epoch 2, from {output / 'adaptive' / 'save'}" in printed
    assert (output / "arcface" / "scores.npz").stat().st_mtime_ns == kept
    assert tables(output) == before
    with pytest.raises(ValueError, match="holds a demo with other settings"):
        demo.run(output, 1, CORPUS, number_of_epochs=2, **TINY)
    with pytest.raises(ValueError, match="seed is -1"):
        demo.run(tmp_path / "bad", -1, CORPUS)
    assert not (tmp_path / "bad").exists()
    with pytest.raises(ValueError, match=r"settings\.json is a file"):
        demo.run(output / "settings.json", 0, CORPUS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        demo.run(tmp_path / "full", 0, CORPUS)


def started(output):
    """A demo in a process of its own, as a user starts it."""
    code = (
        "from pathlib import Path\n"
        "from verimargin_speechbrain.commands import demo\n"
        "if __name__ == '__main__':\n"
        f"    demo.run(Path({str(output)!r}), 0, {CORPUS}, number_of_epochs=2, **{TINY})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Path(f"{output}.log").open("a") as log:
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=log, stderr=log)


def killed(process, seconds):
    """The exit status of a demo that is killed after some seconds; None if it was killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_after_twenty_kills_at_random_moments_the_demo_is_as_if_uninterrupted(tmp_path):
    """7 of 60 left a folder in which it never started again; a training that lived on wrote over the resumed one."""
    draw = random.Random(0)
    began = time.monotonic()
    assert killed(started(tmp_path / "whole"), 1000) == 0
    took = time.monotonic() - began
    assert killed(started(tmp_path / "again"), 1000) == 0
    assert tables(tmp_path / "again") == tables(tmp_path / "whole")
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")
    kills, number = 0, 0
    while kills < 20:
        output = tmp_path / f"killed{number}"
        status = killed(started(output), draw.uniform(0, 0.7 * took))
        assert status in (None, 0), Path(f"{output}.log").read_text()
        kills += status is None
        if status == 0:
            assert tables(output) == tables(tmp_path / "whole")
            assert weights(output) == weights(tmp_path / "whole")
            number += 1
    assert killed(started(output), 1000) == 0
    assert tables(output) == tables(tmp_path / "whole")
    assert not list(output.rglob(".*.partial*"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_demo_is_neither_too_easy_nor_too_hard(tmp_path):
    results = demo.run(tmp_path / "demo", 1986, demo.CORPUS, **demo.RECIPE)
    for name in demo.LOSSES:
        assert 2 < results[name, "cosine"].figures["EER %"].value < 12
