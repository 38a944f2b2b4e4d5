import pytest
import verimargin as vm
from verimargin.commands.comparison.losses import presets, read_loss


def test_the_presets_are_the_functions_of_the_package():
    assert {"arcface", "cosface", "q_margin", "kappaface", "entmax", "adaface"} <= set(presets())
    assert "alpha_softargmax" not in presets()


def test_a_loss_is_built_with_its_arguments():
    loss = read_loss("ours", {"loss": "q_margin", "alpha": 1.5, "scale": 10, "margin": 0.3, "settings": {"lr": 0.1}})
    built = loss.build()
    assert (built.alpha, built.scale, built.margin.m) == (1.5, 10, 0.3)
    assert isinstance(built.margin, vm.QMargin)
    assert loss.settings == {"lr": 0.1}
    assert (
        read_loss("with quality", {"loss": "q_margin", "quality": {"weight": 0.5}}).build().margin.quality is not None
    )


def test_a_loss_is_complete_with_the_defaults_of_its_function():
    short, long = ({"loss": "arcface"}, {"loss": "arcface", "scale": 64.0, "margin": 0.5})
    assert read_loss("a", short).complete() == read_loss("b", long).complete()
    assert read_loss("a", short).complete() != read_loss("a", {"loss": "arcface", "scale": 32}).complete()
    assert read_loss("a", {}).complete()["options"] == {}


def test_the_recipes_own_loss_has_no_function():
    loss = read_loss("theirs", {"settings": {"compute_cost": "!ref <costs[arcface]>"}})
    assert loss.function == ""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"loss": "q_magin"}, "the loss 'mine' is 'q_magin', which is unknown: did you mean q_margin"),
        ({"loss": "arcface", "margn": 0.2}, "has the key 'margn': did you mean margin"),
        ({"loss": "arcface", "alpha": 1.5}, "has the key 'alpha'"),
        ({"loss": "q_margin", "alpha": 0.5}, "the loss 'mine': alpha"),
        ({"loss": "kappaface"}, "num_classes"),
        ({"scale": 30}, "has the key 'scale'"),
        ({"loss": "arcface", "settings": 3}, "settings of the loss 'mine' is 3"),
        ("arcface", "is 'arcface': give a mapping"),
        (None, "is None: give a mapping"),
    ],
)
def test_mistakes_are_named(entry, message):
    with pytest.raises(ValueError, match=message):
        read_loss("mine", entry)
