import csv

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
    with open(output / "table.csv", newline="") as file:
        table = {(row["method"], row["figure"]): row for row in csv.DictReader(file)}
    for loss, title in demo.LOSSES.items():
        row, interval = table[title, "EER %"], results[title].figures["EER %"].interval
        scores, same = (np.load(output / loss / "scores.npz")[key] for key in ("scores", "same"))
        assert float(row["value"]) == pytest.approx(100 * metrics.eer(scores[same], scores[~same])[0], rel=1e-5)
        assert interval.low <= interval.high == pytest.approx(float(row["high"]), rel=1e-5)
    assert not list(output.rglob("*partial*"))
    (output / "qmargin" / "scores.npz").unlink()  # as if interrupted: only this is done again
    kept = (output / "arcface" / "scores.npz").stat().st_mtime_ns
    before = (output / "table.csv").read_text()
    demo.run(output, 0, CORPUS, number_of_epochs=1, **TINY)
    assert (output / "arcface" / "scores.npz").stat().st_mtime_ns == kept
    assert (output / "table.csv").read_text() == before
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
