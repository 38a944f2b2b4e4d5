import pytest
import torch
import verimargin as vm


@pytest.mark.parametrize(("classes", "size"), [(100, 32), (1_000, 192), (6_000, 192), (30_000, 128)])
def test_the_square_root_of_the_classes_is_active_at_the_start(classes, size):
    torch.manual_seed(0)
    head = vm.PrototypeHead(size, classes, vm.q_margin(**vm.suggest(classes, size)))
    with torch.no_grad():
        head(torch.randn(256, size), torch.randint(classes, (256,)))
    assert float(head.active_classes) == pytest.approx(classes**0.5, rel=0.25)


def test_it_is_near_the_published_settings():
    """Faces: alpha 1.25, scale 32 to 35. Speakers: alpha 1.5 to 1.75, scale 5 to 10."""
    for classes in (93_431, 360_232, 1_000_000):
        found = vm.suggest(classes)
        assert found["alpha"] == 1.25
        assert 28 <= found["scale"] <= 37
    found = vm.suggest(5_994)
    assert found["alpha"] == 1.5
    assert 5 <= found["scale"] <= 10


@pytest.mark.parametrize("classes", [2, 3, 10, 24_999, 25_000, 10_000_000])
def test_any_number_of_classes_has_a_setting(classes):
    loss = vm.q_margin(**vm.suggest(classes, 64))
    assert 0 < loss.scale < 100


BAD = [((1,), "num_classes is 1"), ((2.5,), "num_classes is 2.5"), ((9, 0), "embedding_size is 0")]
BAD += [((192, 7_205), r"embedding_size is 7205, and num_classes only 192: .* give suggest\(7205, 192\)")]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        vm.suggest(*arguments)


def test_a_size_above_the_number_of_classes_is_told(caplog):
    vm.suggest(192, 1_251)
    assert "embedding_size is 1251, and num_classes only 192" in caplog.text
    caplog.clear()
    vm.suggest(10_000, 4_096)
    vm.suggest(6)
    assert not caplog.records
