import io

import numpy as np
import pytest
import soundfile
from small_speech import CORPUS
from verimargin.commands.demo_scores import Cost, Run, Trials
from verimargin_speechbrain.commands import demo_content

LOG = """epoch: {n} - train loss: 2.5, train active classes: {s} - valid loss: 1.00, valid error: {e}
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


def test_the_content_is_that_of_the_corpus(output):
    runs = {name: Run(f"Loss {name}", {}, 0.5, Cost(0.5, 1)) for name in ("one", "two")}
    trials = Trials.all_pairs(np.array([0, 0, 1]), [f"id1000{k}/s00/00000.wav" for k in (7, 7, 8)], ["a", "b"])
    settings = {"seed": 7, "corpus": CORPUS, "recipe": {"number_of_epochs": 3, "batch_size": 8}}
    found = demo_content.content(output, runs, trials, settings)
    assert "6 training speakers, 4 other speakers in the test, 1 target and 2 non-target trials, seed 7" in found.data
    assert "+compute_cost: !new:verimargin_speechbrain.QMarginLoss" in found.change
    assert found.settings["number_of_epochs"] == 3
    assert found.batch == 8
    assert (
        found.sample(2, "caption").data
        == demo_content.recording(output / "corpus" / "wav" / trials.samples[2], "caption").data
    )
    assert (output / "training.svg").is_file()


def test_the_figure_of_the_training_has_what_the_logs_have_of_all_epochs(output, monkeypatch):
    drawn = []
    monkeypatch.setattr(demo_content.plots, "lines", lambda *arguments: drawn.append(arguments[1:]))
    logs = {"Loss|one": output / "one" / "train_log.txt", "Loss two": output / "two" / "train_log.txt"}
    logs["Loss two"].write_text(logs["Loss two"].read_text().replace("active classes", "kappa mean"))
    assert "training.png" in demo_content.training(output, logs)
    (epochs, name, panels) = drawn[0]
    assert (epochs, name) == (range(1, 4), "epoch")
    assert panels == {
        "active classes": {"Loss|one": [19.0, 18.0, 17.0]},
        "validation error": {title: [1.0, 0.5, 0.333] for title in logs},
    }
    logs["Loss two"].write_text(LOG.format(n=1, s=1, e=1))
    assert demo_content.training(output, logs) == ""


def test_a_recording_is_smaller_and_sounds_as_it_did(output):
    path = output / "corpus" / "wav" / "id10008" / "s00" / "00000.wav"
    found = demo_content.recording(path, "who")
    heard, rate = soundfile.read(io.BytesIO(found.data))
    recorded, _ = soundfile.read(path)
    assert (found.caption, rate) == ("who", 16_000)
    assert len(found.data) < len(recorded)  # half of a sample's two bytes
    assert np.abs(np.fft.rfft(heard[:48000])[:9000]).sum() == pytest.approx(
        np.abs(np.fft.rfft(recorded)[:9000]).sum(), rel=0.3
    )
