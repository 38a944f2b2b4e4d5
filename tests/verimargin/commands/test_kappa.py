import csv

import pytest
import torch
import verimargin as vm

pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
from typer.testing import CliRunner
from verimargin.commands import kappa as kappa_report
from verimargin.files.class_names import read_class_names
from verimargin.files.kappa_state import read_kappa


def tracker(epochs=1):
    torch.manual_seed(0)
    tracker = vm.KappaTracker([9, 5, 2, 1], 8)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([9, 5, 2, 1]))
    for _ in range(epochs):
        tracker.update(torch.eye(8)[labels] + 0.1 * torch.randn(17, 8) * (labels[:, None] + 1), labels)
        tracker.end_epoch()
    return tracker


def run(*arguments):
    import typer

    app = typer.Typer()
    app.command()(kappa_report.kappa)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def saved(tmp_path, content, name="kappa.ckpt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["kappa.csv", "kappa.png"]
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


def test_names_come_from_a_file_or_a_folder(tmp_path):
    path = saved(tmp_path, tracker().state_dict())
    assert [row.name for row in read_kappa(path)] == ["0", "1", "2", "3"]
    (tmp_path / "names").write_text("d\nc\nb\na\n")
    assert read_class_names(tmp_path / "names") == ["d", "c", "b", "a"]
    (tmp_path / "label_encoder.txt").write_text("'b b' => 1\n'a' => 0\n'c' => 2\n=====\n'starting_index' => 0\n")
    assert read_class_names(tmp_path / "label_encoder.txt") == ["a", "b b", "c"]
    for name in "dbca":
        (tmp_path / "faces" / name).mkdir(parents=True)
    assert [row.name for row in read_kappa(path, read_class_names(tmp_path / "faces"))] == [*"abcd"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds 0 KappaFace states"):
        read_kappa(saved(tmp_path, {"weight": torch.ones(2)}))
    with pytest.raises(ValueError, match="before the first epoch ended"):
        read_kappa(saved(tmp_path, tracker(epochs=0).state_dict()))
    with pytest.raises(ValueError, match="there are 2 names"):
        read_kappa(saved(tmp_path, tracker().state_dict()), ["a", "b"])
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        read_kappa(tmp_path / "text")
    with pytest.raises(ValueError, match="does not exist"):
        read_class_names(tmp_path / "none")
