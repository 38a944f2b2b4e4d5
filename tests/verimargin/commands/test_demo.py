from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner
from verimargin.commands import demo


@pytest.fixture
def command(monkeypatch):
    """`verimargin demo` with two demos that print what they are given."""

    def of(name):
        def run(out: str = typer.Argument("here"), seed: int = 0) -> None:
            print(name, out, seed)

        return run

    monkeypatch.setattr(EntryPoint, "load", lambda entry: of(entry.name))
    entries = [EntryPoint(name, "of_this_test:run", "verimargin.demos") for name in ("faces", "speech")]
    found = demo.make_demo(entries)
    return lambda *arguments: CliRunner().invoke(found, arguments)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ([], "speech here 0"),
        (["--seed", "3"], "speech here 3"),
        (["speech", "there", "--seed", "4"], "speech there 4"),
        (["faces"], "faces here 0"),
        (["faces", "there"], "faces there 0"),
    ],
)
def test_without_a_name_it_is_the_demo_of_speech(command, arguments, printed):
    result = command(*arguments)
    assert (result.exit_code, result.output) == (0, f"{printed}\n")


def test_a_misspelt_name_is_told_and_no_demo_is_run(command):
    result = command("facse")
    assert result.exit_code == 2
    assert "No such command 'facse'" in result.output
    assert "here" not in result.output


def test_the_help_lists_the_demos(command):
    output = command("--help").output
    assert output.index("speech ") < output.index("faces ")
