import numpy as np
import pytest
from verimargin.files.choice import choose

LABELS = np.array([0, 0, 0, 1, 2, 2, 2, 2])


def test_takes_some_of_each_identity_in_order():
    for seed in range(5):
        chosen = choose(LABELS, 2, seed)
        assert np.bincount(LABELS[chosen]).tolist() == [2, 1, 2]
        assert len(set(chosen)) == 5
        assert (np.diff(chosen) > 0).all()
    assert len({tuple(choose(LABELS, 1, seed)) for seed in range(200)}) == 12  # 3 * 1 * 4


def test_a_seed_gives_the_same_choice_whatever_the_labels_are_called():
    np.testing.assert_array_equal(choose(LABELS, 1, 3), choose(LABELS, 1, 3))
    np.testing.assert_array_equal(choose([*"aaabcccc"], 1, 3), choose(LABELS, 1, 3))


def test_none_takes_all():
    assert choose(LABELS, 0, 0).tolist() == list(range(8))
    assert choose([], 0, 0).tolist() == []


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="-1 samples per identity"):
        choose(LABELS, -1, 0)
