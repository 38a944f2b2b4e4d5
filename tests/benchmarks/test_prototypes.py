import pytest
import torch
from prototypes import data, q_margin
from verimargin import PrototypeHead


def active_classes(kind, classes, size, batch=48):
    weight, embeddings, labels = data(kind, classes, batch, size)
    assert weight.shape == (classes, size)
    head = PrototypeHead(size, classes, q_margin())
    head.weight.data.copy_(weight)
    with torch.no_grad():
        head(embeddings, labels)
    return float(head.active_classes)


@pytest.mark.parametrize(("classes", "size"), [(20_000, 512), (50_000, 256), (100_000, 128)])
def test_as_trained_has_the_published_share_of_active_classes(classes, size):
    assert active_classes("as trained", classes, size) == pytest.approx(0.0005 * classes, rel=0.2)


def test_small_clusters_have_eleven_active_classes_whatever_the_number_of_classes():
    assert active_classes("small clusters", 5_000, 512) == pytest.approx(11, abs=1)
    assert active_classes("small clusters", 30_000, 512) == pytest.approx(11, abs=1)


def test_fresh_prototypes_have_many_active_classes():
    assert active_classes("fresh", 20_000, 512) > 100
