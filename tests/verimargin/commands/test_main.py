import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer
import verimargin
from installed_command import installed, verimargin_command
from verimargin.commands import main


@installed
def test_each_command_shows_its_help():
    for command in ("demo", "hparams"):
        assert verimargin_command(command, "--help").returncode == 0


def run(monkeypatch, commands, *arguments):
    """The exit code and message of the command line with these functions as its entry points."""
    loaded = {f"of_this_test:{name}": command for name, command in commands.items()}
    monkeypatch.setattr(EntryPoint, "load", lambda entry: loaded[entry.value])
    entries = [EntryPoint(name, f"of_this_test:{name}", "verimargin.commands") for name in commands]
    monkeypatch.setattr(main, "entry_points", lambda group: entries if group == "verimargin.commands" else [])
    monkeypatch.setattr(sys, "argv", ["verimargin", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    return stopped.value.code


def succeeds(number: int) -> None:
    print(f"given {number}")


def test_runs_a_command_by_the_name_of_its_entry_point(monkeypatch, capsys):
    group = typer.Typer()
    group.command()(succeeds)
    group.command("other")(lambda: print("the other"))
    commands = {"do-this": succeeds, "group": group}
    assert run(monkeypatch, commands, "do-this", "3") == 0
    assert run(monkeypatch, commands, "group", "succeeds", "4") == 0
    assert run(monkeypatch, commands, "group", "other") == 0
    assert capsys.readouterr().out.split("\n")[:3] == ["given 3", "given 4", "the other"]
    assert run(monkeypatch, commands, "unknown") == 2


@pytest.mark.parametrize("error", [ValueError("k is 0: give more"), FileExistsError("out exists already: move it")])
def test_what_is_wrong_with_the_input_is_told_in_one_line(error, monkeypatch):
    def fails() -> None:
        raise error

    assert run(monkeypatch, {"fails": fails, "succeeds": succeeds}, "fails") == f"verimargin: {error}"


def test_a_missing_library_is_told_with_what_to_install(monkeypatch):
    def fails() -> None:
        raise ModuleNotFoundError("No module named 'speechbrain'")

    message = run(monkeypatch, {"fails": fails, "succeeds": succeeds}, "fails")
    assert message.startswith("verimargin: No module named 'speechbrain': pip install 'verimargin[")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, {"fails": fails, "succeeds": succeeds}, "fails")


def test_the_version(monkeypatch, capsys):
    assert run(monkeypatch, {"succeeds": succeeds}, "--version") == 0
    assert capsys.readouterr().out == f"verimargin {verimargin.__version__}\n"


def test_the_package_can_be_run_as_a_program():
    done = subprocess.run([sys.executable, "-m", "verimargin.commands", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("verimargin ")
