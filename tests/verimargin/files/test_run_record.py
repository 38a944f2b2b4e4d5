import pytest
import torch
import verimargin as vm
from verimargin.files import run_record as core


def test_a_loss_is_described_by_its_settings():
    assert core.settings_of(vm.q_margin(alpha=1.5, scale=10.0, margin=0.3)) == {
        "loss": "MarginLoss QMargin",
        "MarginLoss.alpha": 1.5, "MarginLoss.scale": 10.0, "MarginLoss.reduction": "mean", "QMargin.m": 0.3,
    }  # fmt: skip
    assert core.settings_of(vm.kappaface(3)) == core.settings_of(vm.arcface(margin=0.8)), "psi is state, no setting"


@pytest.mark.parametrize("loss", [vm.adaface(), vm.q_margin(quality=vm.Quality()), vm.q_margin()])
def test_steps_are_no_settings(loss):
    """A count of steps among them would refuse the resumption of every run."""
    before = core.settings_of(loss)
    for _ in range(25):
        loss(torch.rand(4, 6), torch.arange(4), norms=torch.rand(4) + 1.0)
    assert core.settings_of(loss) == before


def test_it_comes_back_equal_and_leaves_nothing_else(tmp_path):
    settings = core.settings_of(vm.cosface()) | {"num_classes": 4, "kappa": ("momentum", 0.9)}
    assert core.read_record(tmp_path) is None
    core.write_record(tmp_path, settings)
    assert core.differences(core.read_record(tmp_path), settings) == ""
    assert [path.name for path in tmp_path.iterdir()] == [core.NAME]


def test_differences_are_named():
    a, b = core.settings_of(vm.arcface()), core.settings_of(vm.cosface())
    assert core.differences(a, b) == "loss is MarginLoss ArcMargin there and MarginLoss CosMargin here"
    assert core.differences({"a": 1, "b": None}, {"a": 2, "b": None}) == "a is 1 there and 2 here"


def test_what_only_one_of_two_names_is_no_difference():
    """A setting that a later release adds made every older run look like another one."""
    assert core.differences({"a": 1, "old": 3}, {"a": 1.0, "new": 4}) == ""


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / core.NAME).write_text(text)
    with pytest.raises(ValueError, match=r"verimargin.json is no record of a run's settings"):
        core.read_record(tmp_path)
