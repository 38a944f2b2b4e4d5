"""The command end to end is tested in test_score.py; here, what it varies and what its figure shows."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import verimargin as vm
from small_networks import seeded
from verimargin.commands import sweep as command
from verimargin.commands.report import Value
from verimargin.commands.sweep import Setting, sweep
from verimargin.files.embeddings import Embeddings, write_embeddings


@pytest.fixture
def files(tmp_path):
    """Four identities of three embeddings each, all pairs of them, and 12 anchors."""
    voices = seeded(4, 6).repeat_interleave(3, 0) + 0.9 * seeded(12, 6, seed=1)
    write_embeddings(tmp_path / "e.npz", Embeddings([f"{n // 3}/{n}" for n in range(12)], voices))
    pairs = [(a, b) for a in range(12) for b in range(a)]
    lines = [f"{a // 3 == b // 3:d} {a // 3}/{a} {b // 3}/{b}\n" for a, b in pairs]
    (tmp_path / "t.txt").write_text("".join(lines))
    write_embeddings(tmp_path / "a.npz", Embeddings([*map(str, range(12))], seeded(12, 6, seed=2)))
    return tmp_path, voices, np.array(pairs)


def table(folder):
    with open(folder / "table.csv", newline="") as file:
        return {(row["method"], row["figure"]): float(row["value"]) for row in csv.DictReader(file)}


def test_values_come_once_and_rising_and_fewer_anchors_are_part_of_more(files, monkeypatch):
    folder, voices, pairs = files
    taken, scorer = [], command.IDAScorer
    monkeypatch.setattr(command, "IDAScorer", lambda anchors, *rest: taken.append(anchors) or scorer(anchors, *rest))
    arguments = {"embeddings": folder / "e.npz", "trials": folder / "t.txt", "anchors": folder / "a.npz"}
    sweep(**arguments, intervals=False, out=folder / "out", setting=Setting.anchors, values=[12.0, 5.0, 12.0], k=3)
    assert list(map(len, taken)) == [5, 12]
    assert torch.equal(taken[1][:5], taken[0])
    assert sorted(taken[1].tolist()) == sorted(seeded(12, 6, seed=2).tolist())
    found = table(folder / "out")
    assert list(dict.fromkeys(method for method, _ in found)) == ["cosine", "anchors 5", "anchors 12"]
    same = pairs[:, 0] // 3 == pairs[:, 1] // 3
    for size, anchors in zip((5, 12), taken):
        s = vm.IDAScorer(anchors, 3).score_pairs(voices, *torch.from_numpy(pairs.T), log=True)
        expected = 100 * vm.metrics.eer(s[same], s[~same])[0]
        assert found[f"anchors {size}", "EER %"] == pytest.approx(expected, rel=1e-5)
    assert {path.name for path in (folder / "out").iterdir()} == {
        "table.csv",
        "report.md",
        "report.html",
        "sweep.png",
        "sweep.svg",
    }


def test_the_figure_has_a_panel_for_each_figure_that_the_trials_resolve(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(command.plots, "lines", lambda *arguments: drawn.append(arguments))
    rows = {
        "cosine": {"EER %": Value(9.0), "TAR": Value(np.nan)},
        "k 1": {"EER %": Value(8.0), "TAR": Value(np.nan)},
        "k 5": {"EER %": Value(7.0), "TAR": Value(np.nan)},
    }
    command.plot(tmp_path / "a.png", "k", [1.0, 5.0], rows)
    panels = {"EER %": {"IDA-R, by k": [8.0, 7.0], "cosine": [9.0, 9.0]}}
    assert drawn == [(tmp_path / "a.png", [1.0, 5.0], "k", panels)]


def test_a_forgotten_out_is_not_taken_from_the_values(files):
    """The last value became a folder, and its row was missing from the table."""
    folder, _, _ = files
    arguments = {"embeddings": folder / "e.npz", "trials": folder / "t.txt", "anchors": folder / "a.npz"}
    with pytest.raises(ValueError, match="OUT is 10, which looks like one more value: give a folder"):
        sweep(**arguments, setting=Setting.k, values=[1.0, 2.0], out=Path("10"))


def test_an_option_for_what_is_varied_is_refused(files):
    folder, _, _ = files
    arguments = {"embeddings": folder / "e.npz", "trials": folder / "t.txt", "anchors": folder / "a.npz"}
    with pytest.raises(ValueError, match="--k is 3, but k is what varies: leave that out"):
        sweep(**arguments, setting=Setting.k, values=[1.0, 2.0], k=3, out=folder / "out")
