import csv
import io
import re

import numpy as np
import pytest
import soundfile
from rich.console import Console
from small_speech import CORPUS
from verimargin.commands import sections
from verimargin.commands.page import literal
from verimargin.files.embeddings import save_npz
from verimargin_speechbrain.commands import demo_report
from verimargin_speechbrain.commands.demo_report import Run
from verimargin_speechbrain.corpus import read_trials

LOG = """epoch: {n} - train loss: 2.5, train support: {s} - valid loss: 1.00, valid error: {e}
"""


@pytest.fixture
def output(synthetic_corpus, tmp_path):
    """The folder of a demo whose losses have been trained."""
    (tmp_path / "corpus").symlink_to(synthetic_corpus)
    for loss in ("one", "two"):
        (tmp_path / loss).mkdir()
        lines = [LOG.format(n=n, s=20 - n, e=f"{1 / n:.2e}") for n in range(1, 4)]
        (tmp_path / loss / "train_log.txt").write_text("".join(lines))
    return tmp_path


def runs(output):
    draw = np.random.default_rng(0)
    same = np.array([trial.same for trial in read_trials(output / "corpus" / "veri_test.txt")])
    return {
        "Loss|one": Run(output / "one", same + draw.normal(size=len(same)), 0.125, 0.00123, 4096),
        "Loss two": Run(output / "two", same + draw.normal(size=len(same)), np.nan, 0.00456, 1024),
    }


def test_a_report_has_all_its_parts(output):
    console = Console(file=io.StringIO(), width=200)
    settings = {"seed": 7, "corpus": CORPUS, "recipe": {"number_of_epochs": 3}}
    results = demo_report.write(output, runs(output), settings, console)
    html, text = ((output / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert "6 training speakers, 4 other speakers in the test, 12 target and 54 non-target trials, seed 7" in text
    assert r"| Loss\|one | 125 ms | 1.23 ms | 4 KiB |" in text
    assert "| Loss two | - | 4.56 ms | 1 KiB |" in text
    assert "+compute_cost: !new:verimargin_speechbrain.QMarginLoss" in text
    assert "| number_of_epochs | 3 |" in text
    assert html.count("<svg ") == 3  # DET curves, distributions and the training
    assert (
        len(re.findall(r'<audio controls preload="metadata" aria-label="[^"]+" src="data:audio/mpeg;base64,', html))
        == 12
    )
    best = sections.best(results)
    assert f"The shares of their trials that {literal(best)}" in text
    with open(output / "table.csv", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"Loss|one", "Loss two"}
    assert "Open" in console.file.getvalue()


def test_the_figure_of_the_training_has_what_all_epochs_logged(output, monkeypatch):
    drawn = []
    monkeypatch.setattr(demo_report.plots, "lines", lambda *arguments: drawn.append(arguments[1:]))
    assert "training.png" in demo_report.training(output, runs(output))
    one = {"Loss|one": [19.0, 18.0, 17.0], "Loss two": [19.0, 18.0, 17.0]}
    error = [1.0, 0.5, 0.333]
    assert drawn == [(range(1, 4), "epoch", {"support": one, "validation error": dict.fromkeys(one, error)})]
    (output / "two" / "train_log.txt").write_text(LOG.format(n=1, s=1, e=1))
    assert demo_report.training(output, runs(output)) == ""


def test_the_recordings_of_the_hardest_speakers(output):
    trials = read_trials(output / "corpus" / "veri_test.txt")
    own, other = (next(k for k, trial in enumerate(trials) if trial.same == same) for same in (True, False))
    names = ["id10007", "id10008"]
    hard = [sections.Hard(1, 1.0, 0.5, own, other)]  # id10008 is the other side of the first non-target trial
    found = demo_report.samples(output / "corpus" / "wav", hard, trials, np.arange(len(trials)) / 10, names).samples
    captions = [sample.caption for sample in found]
    assert captions[2] == f"{trials[other].test}: speaker id10008"
    assert captions[3] == f"{trials[other].enrol}: not id10008, with a score of {other / 10:.3g}"
    heard, rate = soundfile.read(io.BytesIO(found[2].data))
    recorded, _ = soundfile.read(output / "corpus" / "wav" / trials[other].test)
    assert rate == 16_000
    assert len(found[2].data) < len(recorded)  # half of a sample's two bytes
    assert np.abs(np.fft.rfft(heard[:48000])[:9000]).sum() == pytest.approx(
        np.abs(np.fft.rfft(recorded)[:9000]).sum(), rel=0.3
    )
    assert demo_report.samples(output, [], trials, np.zeros(1), names) == ""


def test_results_of_a_run_are_read_again_and_damage_is_named(tmp_path):
    path = tmp_path / "scores.npz"
    save_npz(path, scores=np.zeros(3, np.float32), step_seconds=[0.5], cost=(0.25, 100))
    assert demo_report.read_run(path)[2:] == (0.5, 0.25, 100)
    save_npz(path, scores=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"scores\.npz is damaged or of an older version: remove it"):
        demo_report.read_run(path)
