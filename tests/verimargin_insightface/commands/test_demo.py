import csv

import cv2
import numpy as np
import pytest
from small_drawn_faces import CORPUS, TINY
from verimargin import metrics
from verimargin.commands.demo_scores import METHODS
from verimargin_insightface.commands import demo
from verimargin_insightface.drawn_faces.training import LOSSES


def tables(output):
    """What does not depend on the time that a step took."""
    text = (output / "report.md").read_text()
    return (output / "table.csv").read_text(), text[: text.index("## Cost of a step")]


def test_the_demo_reports_and_resumes_and_two_runs_print_the_same(tmp_path, capsys):
    output = tmp_path / "demo"
    results = demo.run(output, 0, CORPUS, **TINY)
    printed = capsys.readouterr().out
    assert results.keys() == {(loss, method) for loss in LOSSES for method in METHODS}
    with open(output / "table.csv", newline="") as file:
        table = {(row["method"], row["figure"]): float(row["value"]) for row in csv.DictReader(file)}
    for name, loss in LOSSES.items():
        saved = np.load(output / name / "scores.npz")
        assert set(METHODS) < set(saved)
        for method, title in METHODS.items():
            same = np.kron(np.eye(CORPUS["test_people"]), np.ones((3, 3)))[np.triu_indices(18, 1)] > 0
            expected = 100 * metrics.eer(saved[method][same], saved[method][~same])[0]
            assert table[f"{loss.title}, {title}", "EER %"] == pytest.approx(expected, rel=1e-5)
        assert f"{loss.title}: begins" in printed
    report = (output / "report.md").read_text()
    for picture in ("faces.png", "det_losses.png", "det_scores.png", "distributions.png"):
        assert f"({picture})" in report
        assert cv2.imread(str(output / picture)) is not None
    assert cv2.imread(str(output / "faces.png")).shape == (112 * CORPUS["test_people"], 112 * 3, 3)
    assert not list(output.rglob("*.partial*"))

    before = tables(output)
    (output / "qmargin" / "scores.npz").unlink()  # as if interrupted before it was scored
    kept = (output / "arcface" / "scores.npz").stat().st_mtime_ns
    demo.run(output, 0, CORPUS, **TINY)
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{LOSSES['qmargin'].title}: resumes after epoch 2, from {output / 'qmargin' / 'checkpoint.pt'}" in printed
    assert f"{LOSSES['arcface'].title}: trained and scored before, in {output / 'arcface' / 'scores.npz'}" in printed
    assert f"Faces: drawn before, in {output / 'faces'}" in printed
    assert (output / "arcface" / "scores.npz").stat().st_mtime_ns == kept
    assert tables(output) == before

    demo.run(tmp_path / "again", 0, CORPUS, **TINY)
    assert tables(tmp_path / "again") == before


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="seed is -1"):
        demo.run(tmp_path / "demo", -1, CORPUS)
    assert not (tmp_path / "demo").exists()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").touch()
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        demo.run(tmp_path / "demo", 0, CORPUS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_demo_is_neither_too_easy_nor_too_hard(tmp_path):
    results = demo.run(tmp_path / "demo", 1986, demo.CORPUS)
    for name in LOSSES:
        assert 2 < results[name, "cosine"].figures["EER %"].value < 8
