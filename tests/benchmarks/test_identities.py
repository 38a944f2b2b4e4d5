import identities
import numpy as np
import pytest
import torch
from identities import class_sizes, identity_factors, inputs, normal, nuisance_factors, training_set


def test_a_number_is_the_same_bytes_whatever_it_is_drawn_with():
    identity, number = np.array([5, 2**40 + 3, 99_999, 5]), np.array([0, 5, 199, 1])
    together = [*drawn(identity, number)]
    for k in (3, 1, 0, 2):
        for alone, of_all in zip(drawn(identity[k : k + 1], number[k : k + 1]), together):
            assert np.array_equal(alone[0], of_all[k])
    assert len(np.unique(together[-1])) == together[-1].size
    few, many = training_set(50), training_set(500)
    n = len(few.label)
    assert np.array_equal(many.label[:n], few.label)
    assert np.array_equal(many.number[:n], few.number)


def drawn(identity, number):
    return identity_factors(identity), nuisance_factors(identity, number), normal(8, identity, number, 96)


def test_a_batch_is_the_same_bytes_again():
    identity, number = np.arange(300), np.arange(300) % 7
    assert inputs(identity, number).dtype == torch.float32
    assert torch.equal(inputs(identity, number), inputs(identity, number))
    # the product of the network rounds by the shape of the batch
    torch.testing.assert_close(inputs(identity[:1], number[:1]), inputs(identity, number)[:1])


def test_the_normal_numbers_are_normal_and_unrelated():
    x = normal(3, np.arange(50_000), np.arange(50_000) % 7, 8)
    assert np.abs(x.mean(0)).max() < 0.02
    assert np.abs(np.cov(x.T) - np.eye(8)).max() < 0.03
    assert (x**4).mean() == pytest.approx(3.0, abs=0.1)
    neighbours = (x[1:] * x[:-1]).mean(0), (x * normal(4, np.arange(50_000), np.arange(50_000) % 7, 8)).mean(0)
    assert np.abs(neighbours).max() < 0.02


def test_the_classes_have_a_heavy_tail():
    size = np.sort(class_sizes(np.arange(100_000)))
    assert (size[0], size[-1]) == (2, 200)
    assert 8 < size.mean() < 10
    assert size[-10_000:].sum() > 0.5 * size.sum()


def test_two_percent_of_the_training_samples_show_another_identity():
    data = training_set(2000)
    index = np.arange(len(data.label))
    wrong = (data.inputs(index) != inputs(data.label, data.number)).any(1)
    assert float(wrong.float().mean()) == pytest.approx(0.02, abs=0.005)
    assert data.label.max() == 1999


def test_a_family_looks_alike():
    z = identity_factors(np.arange(20_000)).reshape(1000, 20, -1)
    assert (z**2).mean() == pytest.approx(1.0, abs=0.02)
    assert (z[:, 0] * z[:, 1]).mean() > 0.2
    assert abs((z[:-1, 0] * z[1:, 0]).mean()) < 0.03


def test_some_samples_are_much_noisier_than_others(monkeypatch):
    """One in 8 has twice the least noise, and one in 64 four times."""
    identity, number = np.arange(20_000), np.zeros(20_000, dtype=np.int64)
    noisy, least = inputs(identity, number), identities.NOISE
    monkeypatch.setattr(identities, "NOISE", 0.0)
    spread = (noisy - inputs(identity, number)).std(1) / least
    for times, share in ((2, 1 / 8), (4, 1 / 64)):
        assert float((spread > times).float().mean()) == pytest.approx(share, rel=0.25)
