import pytest

pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
import torch
import typer
from typer.testing import CliRunner
from verimargin.commands import options
from verimargin.commands.options import sizes_of


@pytest.mark.parametrize(("text", "sizes"), [("512", [512]), ("3x112x112", [3, 112, 112]), ("", [])])
def test_sizes(text, sizes):
    assert sizes_of("input_shape", text) == sizes


@pytest.mark.parametrize("text", ["3,112,112", "x", "3x", "1.5", "a"])
def test_what_are_no_sizes_is_named(text):
    with pytest.raises(ValueError, match=f"latent_size is '{text}': give integers, such as 512 or 100x1x1"):
        sizes_of("latent_size", text)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device is 'gpu': give cpu, cuda or cuda:N"),
        ("cuda", "--device is cuda, but torch finds 0 GPUs here"),
        ("cuda:3", "--device is cuda:3, but torch finds 0 GPUs here"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_done(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    app, given = typer.Typer(), []

    @app.command()
    def command(device: options.DeviceOption = "cpu") -> None:
        given.append(device)

    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, ["--device", device], catch_exceptions=False)
    for arguments in ([], ["--device", "cpu"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert CliRunner().invoke(app, ["--device", "cuda:3"]).exit_code == 0
    assert given == ["cpu", "cpu", "cuda:3"]


def test_a_command_takes_them_by_the_names_of_its_parameters():
    app, given = typer.Typer(), []

    @app.command()
    def command(
        embeddings: options.EmbeddingsArgument, k: options.KOption = 10, intervals: options.IntervalsOption = True
    ) -> None:
        given.append((embeddings.name, k, intervals))

    assert CliRunner().invoke(app, ["a/e.npz", "--k", "3"]).exit_code == 0
    assert CliRunner().invoke(app, ["a/e.npz", "--no-intervals"]).exit_code == 0
    assert given == [("e.npz", 3, True), ("e.npz", 10, False)]
