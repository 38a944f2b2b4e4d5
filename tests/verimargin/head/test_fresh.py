import pytest
import torch
import verimargin as vm
from verimargin.head.fresh import fresh_share


@pytest.mark.parametrize(
    ("classes", "size", "alpha", "scale", "tolerance"),
    [
        (20_000, 256, 1.25, 32, 0.2),
        (5_000, 128, 1.5, 10, 0.2),
        (5_000, 128, 1.1, 20, 0.1),
        (20_000, 256, 1.02, 32, 0.01),
        (300, 64, 2.0, 5, 0.2),
    ],
)
def test_it_is_the_share_of_random_prototypes(classes, size, alpha, scale, tolerance):
    torch.manual_seed(0)
    weight, embeddings = (
        torch.nn.functional.normalize(torch.randn(n, size, dtype=torch.float64)) for n in (classes, 32)
    )
    p, _ = vm.alpha_softargmax(scale * embeddings @ weight.T, alpha)
    assert fresh_share(classes, size, alpha, scale) == pytest.approx(float((p > 0).double().mean()), rel=tolerance)


def test_the_cosine_of_a_class_with_subcenters_is_the_largest():
    """It was planned as that of one prototype, which fewer classes are active with."""
    torch.manual_seed(0)
    size = 256
    weight, embeddings = (torch.nn.functional.normalize(torch.randn(n, size).double()) for n in (15_000, 32))
    cosine = (embeddings @ weight.T).unflatten(1, (-1, 3)).amax(2)
    p, _ = vm.alpha_softargmax(20 * cosine, 1.25)
    share = fresh_share(5_000, size, 1.25, 20, 3)
    assert share == pytest.approx(float((p > 0).double().mean()), rel=0.15)
    assert share > 1.3 * fresh_share(5_000, size, 1.25, 20)


def test_the_share_that_was_counted_for_the_screening():
    """448 of 100,000 classes were counted for alpha 1.25, scale 32 and size 512."""
    assert fresh_share(100_000, 512, 1.25, 32) == pytest.approx(0.00448, rel=0.1)


def test_near_alpha_1_all_classes_are_active():
    assert fresh_share(2_000_000, 512, 1.001, 32) == 1.0
    shares = [fresh_share(2_000_000, 512, alpha, 32) for alpha in (1.05, 1.1, 1.25, 1.5, 2.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-5
    assert fresh_share(10, 512, 8.0, 1000) == pytest.approx(0.1), "one class at least"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 1.25, 32), "classes is 0"),
        ((10, 0.5, 1.25, 32), "size is 0.5"),
        ((10, 8, 1.0, 32), "alpha is 1: give a number above 1"),
        ((10, 8, float("nan"), 32), "alpha is nan"),
        ((10, 8, 1.25, 0.0), "scale is 0"),
        ((10, 8, 1.25, 32, 0), "subcenters is 0"),
    ],
)
def test_wrong_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fresh_share(*arguments)
