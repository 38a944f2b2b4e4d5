import csv

import pytest
from small_kappa import saved, tracker

pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
from typer.testing import CliRunner
from verimargin.commands import kappa as kappa_report


def run(*arguments):
    import typer

    app = typer.Typer()
    app.command()(kappa_report.kappa)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("nested", [False, True])
def test_writes_the_table_and_the_plot(tmp_path, nested):
    state = {f"tracker.{key}": value for key, value in tracker().state_dict().items()}
    state["_extra_state"] = {"class_names": ["anna", "bert", "cleo", "dora"]}
    result = run(saved(tmp_path, {"head": state, "epoch": 3} if nested else state), tmp_path / "out")
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "kappa.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["anna", "bert", "cleo", "dora"]
    assert [int(row["samples"]) for row in rows] == [9, 5, 2, 1]
    expected = tracker()
    assert [float(row["kappa"]) for row in rows] == expected.kappa.tolist()
    assert [float(row["psi"]) for row in rows] == expected.psi.tolist()
    assert (tmp_path / "out" / "kappa.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["kappa.csv", "kappa.png", "kappa.svg"]
    table = result.output[result.output.index("hardest") : result.output.index("easiest")]
    hardest = min(rows, key=lambda row: float(row["kappa"]))["name"]
    assert table.index(hardest) == min(table.index(row["name"]) for row in rows)


def test_names_are_shown_as_they_are(tmp_path):
    """No markup of rich's, nor formulas of matplotlib's."""
    path = saved(tmp_path, tracker().state_dict())
    (tmp_path / "names").write_text("[red]anna\nb_$x^$\n[/]\nd\n")
    result = run(path, tmp_path / "out", "--names", tmp_path / "names")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("[red]anna", "b_$x^$", "[/]"))
