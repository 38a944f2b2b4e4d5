import fcntl
import re

import numpy as np
import pytest
import soundfile
import torch
import typer
from small_disk import files_up_to
from small_recipe import RECIPE, make
from typer.testing import CliRunner
from verimargin.files import whole
from verimargin.files.networks import fingerprint
from verimargin.files.whole import alone
from verimargin_speechbrain.commands import embed_speech as embed
from verimargin_speechbrain.speech_encoder import SpeechEncoder, load_encoder


@pytest.fixture
def corpus(tmp_path):
    return make(tmp_path)


def run(corpus, *options, annotations=("train.csv",), out="out.npz"):
    app = typer.Typer()
    app.command()(embed.embed_speech)
    files = [corpus / name for name in ("recipe.yaml", *annotations, out)]
    arguments = [*files, *options, "--set", f"data_folder={corpus}"]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def expected(corpus, number, start):
    encoder = load_encoder(corpus / "recipe.yaml", [f"data_folder={corpus}"], "cpu")
    samples = soundfile.read(corpus / f"{number}.wav", start=start, stop=1100, dtype="float32")[0]
    with torch.no_grad():
        features = torch.from_numpy(samples).reshape(1, -1, 10)
        features = features - features.mean(1, keepdim=True)
        return encoder.model(features, torch.ones(1)).flatten(), fingerprint(encoder.model)


def test_embeds_each_recording_by_itself_and_says_whose_it_is(corpus):
    # 1100 - 100 samples: whole frames of 10
    result = run(corpus)
    assert result.exit_code == 0, (result.output, result.exception)
    made = np.load(corpus / "out.npz")
    assert made["ids"].tolist() == ["a-0", "a-1", "b-2", "b-3", "b-4", "c-5"]
    assert "".join(made["labels"]) == "aabbbc"
    for number in (0, 3):
        vector, encoder = expected(corpus, number, 100 * (number % 2))
        np.testing.assert_allclose(made["embeddings"][number], vector, atol=1e-5)
        assert made["encoder"] == encoder
    assert "sizes" not in made  # the recipe does not say how many samples a second has
    assert not list(corpus.glob("*.partial*"))
    assert not (corpus / "not").exists()


def test_takes_several_annotations_and_each_recording_once(corpus):
    rows = (corpus / "train.csv").read_text().splitlines()
    (corpus / "more.csv").write_text("\n".join([rows[0], rows[2], "d-6, 0.05, $data_root/0.wav, 0, 600, d"]))
    assert run(corpus, annotations=("train.csv", "more.csv")).exit_code == 0
    made = np.load(corpus / "out.npz")
    assert made["ids"].tolist() == ["a-0", "a-1", "b-2", "b-3", "b-4", "c-5", "d-6"]
    assert made["embeddings"].shape == (7, 4)


def test_takes_some_of_each_speaker(corpus):
    assert run(corpus, "--per-speaker", "1").exit_code == 0
    assert "".join(np.load(corpus / "out.npz")["labels"]) == "abc"
    assert run(corpus, "--per-speaker", "2", out="two.npz").exit_code == 0
    assert "".join(np.load(corpus / "two.npz")["labels"]) == "aabbc"


def test_goes_on_where_it_was_interrupted(corpus, monkeypatch):
    whole = run(corpus, out="whole.npz")
    assert whole.exit_code == 0
    done, one = [], SpeechEncoder.__call__

    def interrupted(self, row):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(row["ID"])
        return one(self, row)

    monkeypatch.setattr(SpeechEncoder, "__call__", interrupted)
    assert run(corpus).exit_code != 0
    assert not (corpus / "out.npz").exists()
    done.clear()
    assert run(corpus).exit_code == 0
    assert done == ["a-0", "b-4", "c-5"]  # the first again, for its size
    for name in ("ids", "embeddings"):
        assert np.array_equal(np.load(corpus / "out.npz")[name], np.load(corpus / "whole.npz")[name])


def test_mistakes_are_named(corpus):
    (corpus / "3.wav").unlink()
    result = run(corpus)
    assert "b-3 does not exist: set data_folder" in str(result.exception)
    (corpus / "out.npz").touch()
    assert "exists already" in str(run(corpus).exception)


def half_done(corpus, monkeypatch):
    """A run that was interrupted after two recordings."""
    one, done = SpeechEncoder.__call__, []

    def interrupted(self, row):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(row["ID"])
        return one(self, row)

    with monkeypatch.context() as context:
        context.setattr(SpeechEncoder, "__call__", interrupted)
        assert run(corpus).exit_code != 0


def test_rows_of_another_recipe_or_segment_are_not_gone_on_with(corpus, monkeypatch):
    """The key of the unfinished file held the weights and the ids alone."""
    half_done(corpus, monkeypatch)
    annotation = (corpus / "train.csv").read_text()
    (corpus / "train.csv").write_text(annotation.replace(", 0, 1100,", ", 200, 1100,"))
    assert run(corpus).exit_code == 0
    assert run(corpus, out="fresh.npz").exit_code == 0
    made, fresh = (np.load(corpus / name)["embeddings"] for name in ("out.npz", "fresh.npz"))
    np.testing.assert_array_equal(made, fresh)
    (corpus / "train.csv").write_text(annotation)
    (corpus / "recipe.yaml").write_text(RECIPE.replace("std_norm: False", "std_norm: True"))
    (corpus / "out.npz").unlink()
    assert run(corpus).exit_code == 0
    assert run(corpus, out="normed.npz").exit_code == 0
    made, normed = (np.load(corpus / name)["embeddings"] for name in ("out.npz", "normed.npz"))
    np.testing.assert_array_equal(made, normed)


def test_two_processes_do_not_mix_their_rows(corpus, monkeypatch):
    half_done(corpus, monkeypatch)
    (partial,) = corpus.glob("*.partial")
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = run(corpus)
    assert "another process is making these embeddings" in str(refused.exception)
    assert run(corpus).exit_code == 0


def nan_in(corpus, annotation):
    soundfile.write(corpus / "2.wav", np.full(1200, np.nan), 16000, subtype="FLOAT")
    return annotation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, text: text.replace("100, 1100, a", "100, 1300, a"), "samples 100 to 1300 of .*, which ends at 1200"),
        (lambda _, text: text + "a-0, 0.05, $data_root/3.wav, 0, 1100, a\n", "has the ID a-0 for another recording"),
        (nan_in, "the embedding of b-2 has norm nan"),
    ],
)
def test_recordings_that_cannot_be_embedded_are_named(corpus, change, message):
    (corpus / "train.csv").write_text(change(corpus, (corpus / "train.csv").read_text()))
    done = run(corpus)
    assert isinstance(done.exception, ValueError), done.output
    assert re.search(message, str(done.exception)), done.exception
    assert not (corpus / "out.npz").exists()


def test_another_sample_rate_is_refused(corpus):
    (corpus / "recipe.yaml").write_text("sample_rate: 16000\n" + RECIPE)
    assert run(corpus).exit_code == 0
    made = np.load(corpus / "out.npz")
    assert made["sizes"][0] == (1100 - 0) / 16000  # seconds
    assert made["sizes"][1] == (1100 - 100) / 16000
    soundfile.write(corpus / "4.wav", 0.1 * torch.randn(1200).numpy(), 8000)
    refused = run(corpus, out="again.npz").exception
    assert "4.wav has 8000 samples per second, the recipe takes 16000" in str(refused)


def test_a_misspelt_key_is_named(corpus):
    refused = run(corpus, "--set", "data_foldr=x").exception
    assert isinstance(refused, ValueError)
    assert "data_foldr" in str(refused)
    assert "give a verification recipe" in str(refused)


def test_paths_that_mean_something_in_yaml(corpus, tmp_path):
    """`data_folder=/a/b #1` was cut before the #, and `: ` made it a key."""
    odd = tmp_path / "run #1: 'it'"
    odd.mkdir()
    for file in [*corpus.glob("*.wav"), corpus / "model.ckpt"]:
        file.rename(odd / file.name)
    app = typer.Typer()
    app.command()(embed.embed_speech)
    arguments = [corpus / "recipe.yaml", corpus / "train.csv", odd / "out.npz", "--set", f"data_folder={odd}"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(np.load(odd / "out.npz")["ids"]) == 6


def test_a_second_run_and_a_full_disk_are_found_before_the_computing(corpus, monkeypatch):
    monkeypatch.setattr(embed, "load_encoder", lambda *_: pytest.fail("it computes"))
    with alone(corpus / "out.npz"):
        assert "another process is writing" in str(run(corpus).exception)
    disk = type("Disk", (), {"free": 1000, "total": 2**40})
    monkeypatch.setattr(whole.shutil, "disk_usage", lambda path: disk)
    assert "out.npz needs 1,048,576 bytes, but its disk has only 1,000 left" in str(run(corpus).exception)
    assert not list(corpus.glob("*out*"))


def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_later(corpus):
    with files_up_to(20):
        failed = run(corpus)
    assert isinstance(failed.exception, OSError)
    assert re.search(r"File too large: '.*/out\.[0-9a-f]+\.partial'", str(failed.exception))
    assert not list(corpus.glob(".*"))
    assert run(corpus).exit_code == 0
    assert len(np.load(corpus / "out.npz")["ids"]) == 6
