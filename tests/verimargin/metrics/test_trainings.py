import numpy as np
import pytest
from verimargin.metrics import paired, trainings
from verimargin.metrics.trainings import Trainings


def sample(random, runs, speakers, of_training, of_both, own=None):
    """Figures that are a sum of speakers, trainings and what each training does to each speaker."""
    effects = of_both * random.normal(size=(runs, speakers)) + (0 if own is None else own)
    return Trainings(effects.sum(1) + of_training * random.normal(size=runs), effects)


def plain(effects):
    """The variance of a sum of independent parts whose mean is known to be 0."""
    return float((effects**2).sum()), float(effects.shape[-1])


@pytest.mark.parametrize(("of_training", "of_both"), [(0.0, 0.2), (2.0, 0.05), (1.0, 0.2)])
def test_the_variance_is_that_of_the_difference(of_training, of_both):
    """Over many experiments, in which speakers, trainings and both are drawn anew."""
    random, found, values = np.random.default_rng(0), [], []
    for _ in range(3000):
        sides = [sample(random, 3, 40, of_training, of_both, 0.1 * random.normal(size=40)) for _ in range(2)]
        found.append(trainings.variance_of_difference(sides, plain)[0])
        values.append(sides[0].mean - sides[1].mean)
    assert np.mean(found) < 1.25 * np.var(values)  # v_R - v_IR is never taken to be negative
    assert np.mean(found) > 0.95 * np.var(values)


def test_speakers_and_trainings_of_known_variances():
    """v_I is 2, v_R of the first is 4 / 2, that of the second 1 / 2, and nothing is in both."""
    effects = np.array([1.0, -1.0])
    one = Trainings(np.array([3.0, 3.0 + np.sqrt(8)]), np.tile(effects, (2, 1)))
    other = Trainings(np.array([0.0, np.sqrt(2)]), np.zeros((2, 2)))
    variance, freedom = trainings.variance_of_difference([one, other], lambda x: (float((x**2).sum()), 5.0))
    assert variance == pytest.approx(2 + 2 + 0.5)
    assert freedom == pytest.approx(4.5**2 / (4 / 5 + 2**2 + 0.5**2))


def test_one_training_is_that_of_the_speakers_alone():
    effects = np.array([[0.1, 0.3, -0.4]])
    one = Trainings(np.array([1.0]), effects)
    other = Trainings(np.array([2.0]), 0.5 * effects)
    assert trainings.variance_of_difference([one, other], paired.over_speakers) == paired.over_speakers(
        0.5 * effects[0]
    )


def test_a_single_training_beside_several_is_taken_to_vary_as_they_do():
    several = Trainings(np.array([1.0, 3.0]), np.zeros((2, 3)))
    variance, freedom = trainings.variance_of_difference([several, Trainings(np.array([2.0]), np.zeros((1, 3)))], plain)
    assert variance == pytest.approx(2 / 2 + 2 / 1)
    assert freedom == pytest.approx(9 / (1 + 4))


def test_what_the_effects_do_not_show_is_added_for_each_system():
    one = Trainings(np.array([1.0]), np.array([[1.0, -1.0]]), np.array([0.5]))
    other = Trainings(np.array([1.0]), np.zeros((1, 2)), np.array([0.25]))
    assert trainings.variance_of_difference([one, other], plain)[0] == pytest.approx(2 + 0.5 + 0.25)
    assert trainings.variance_of_difference([other, other], plain)[0] == 0  # no speaker makes a difference


def test_rows():
    assert [row.tolist() for row in trainings.rows([1.0, 2.0])] == [[1.0, 2.0]]
    assert [row.tolist() for row in trainings.rows(np.array([[1.0, 2.0], [3.0, 4.0]]))] == [[1.0, 2.0], [3.0, 4.0]]
