import csv

import numpy as np
import pytest
import torch
from verimargin.files.anchors import anchors_from_prototypes

pytest.importorskip("typer", reason="typer is not installed: pip install 'verimargin[cli]'")
from typer.testing import CliRunner
from verimargin.commands.prune import prune

WEIGHT = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 3.0], [-1.0, 0.0]]])
VECTORS = np.array([[5.0, 0.1], [2.0, 0.2], [0.1, 4.0], [-1.0, 0.1]], dtype=np.float32)
CLASSES = ["anna", "anna", "anna", "bert"]


def run(tmp_path, labels, *options, weight=WEIGHT):
    import typer

    torch.save({"weight": weight}, tmp_path / "classifier.ckpt")
    ids = [f"{label}/{n}" for n, label in enumerate(labels)]
    np.savez(tmp_path / "training.npz", embeddings=VECTORS, labels=labels, ids=ids)
    (tmp_path / "names.txt").write_text("anna\nbert\n")
    app = typer.Typer()
    app.command()(prune)
    arguments = [tmp_path / "classifier.ckpt", tmp_path / "training.npz", tmp_path / "out", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("numbered", [False, True])
def test_prototypes_and_samples(tmp_path, numbered):
    labels = ["0", "0", "0", "1"] if numbered else CLASSES
    result = run(tmp_path, labels, *([] if numbered else ["--names", tmp_path / "names.txt"]))
    assert result.exit_code == 0, result.output
    assert "1 of 4 samples (25.0%) are more than 75 degrees from the dominant centre" in result.output
    assert anchors_from_prototypes([tmp_path / "out" / "prototypes.pt"]).vectors.tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    assert (tmp_path / "out" / "removed.txt").read_text() == f"{labels[2]}/2\n"
    with (tmp_path / "out" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["subcenter"], row["kept"]) for row in rows] == [
        ("0", "0", "True"),
        ("0", "0", "True"),
        ("0", "1", "False"),
        ("1", "1", "True"),
    ]
    assert float(rows[2]["angle"]) == pytest.approx(np.degrees(np.arctan2(4.0, 0.1)), abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "options", "weight", "message"),
    [
        (CLASSES, (), WEIGHT, "the label 'anna' is no class number: give --names"),
        (["anna", "anna", "anna", "carl"], ("--names", "names.txt"), WEIGHT, "'carl' is not among the 2 names"),
        (["0", "0", "0", "1"], (), WEIGHT[:, 0], "give that of a head with sub-centres"),
        (["0", "0", "0", "2"], (), WEIGHT, "2"),
        (["0", "0", "0", "1"], ("--largest-angle", "0"), WEIGHT, "largest_angle is 0.0"),
    ],
)
def test_what_cannot_be_pruned_leaves_nothing(tmp_path, labels, options, weight, message):
    options = [tmp_path / option if option.endswith(".txt") else option for option in options]
    result = run(tmp_path, labels, *options, weight=weight)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_anchors_need_one_prototype_per_class(tmp_path):
    torch.save({"weight": WEIGHT}, tmp_path / "classifier.ckpt")
    with pytest.raises(ValueError, match="has 2 sub-centres per class: `verimargin prune`"):
        anchors_from_prototypes([tmp_path / "classifier.ckpt"])


BY_NAME = "the names are probably not in the order of the head's classes. The samples of class 1 (anna), for one, are"
BY_NUMBER = "the labels are probably not the numbers of the head's classes. The samples of class 1, for one, are"


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        ("bert\nanna\n", CLASSES, f"{BY_NAME} nearest to the prototypes of class 0 (bert)"),
        (None, ["1", "1", "1", "0"], f"{BY_NUMBER} nearest to the prototypes of class 0."),
        ("anna\nbert\n", CLASSES, None),
    ],
)
def test_an_order_that_is_not_the_heads_is_told(tmp_path, names, labels, message):
    """It said that 85 % of the samples are far, and no more."""
    if names:
        (tmp_path / "order.txt").write_text(names)
    weight = torch.tensor([[[1.0, 0.0], [1.0, 0.3]], [[-1.0, 0.0], [-1.0, 0.3]]])
    result = run(tmp_path, labels, *(["--names", tmp_path / "order.txt"] if names else []), weight=weight)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert (message in shown) if message else ("label noise" not in shown)


def test_embeddings_of_another_encoder_are_told(tmp_path):
    weight = torch.tensor([[[0.0, -1.0], [0.0, -2.0]], [[-0.3, -1.0], [-0.3, -2.0]]])
    result = run(tmp_path, ["0", "0", "0", "1"], weight=weight)
    assert "probably of another encoder than the head's" in result.output


def test_a_class_without_a_name_is_told_by_its_number(tmp_path):
    (tmp_path / "order.txt").write_text("anna\n")
    weight = torch.tensor([[[-1.0, 0.0], [-1.0, -0.3]], [[1.0, 0.0], [1.0, 0.3]]])
    result = run(tmp_path, ["anna"] * 4, "--names", tmp_path / "order.txt", weight=weight)
    assert result.exit_code == 0, result.output
    assert "samples of class 0 (anna), for one, are nearest to the prototypes of class 1." in " ".join(
        result.output.split()
    )
