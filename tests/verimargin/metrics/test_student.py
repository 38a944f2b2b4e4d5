import math

import pytest
from verimargin.metrics import student


def test_the_textbooks_quantiles():
    for freedom, t in ((1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (1e6, 1.960)):
        assert student.quantile(0.95, freedom) == pytest.approx(t, abs=1e-3)
    assert student.quantile(0.99, 4) == pytest.approx(4.604, abs=1e-3)


def test_the_distributions_that_have_a_closed_form():
    """One degree of freedom is the Cauchy distribution; two have P(|T| > t) = 1 - t / sqrt(2 + t^2)."""
    for t in (0.0, 0.3, 2.0, 50.0):
        assert student.two_sided(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-12)
        assert student.two_sided(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)


@pytest.mark.parametrize("freedom", [1.0, 1.4, 3.7, 9.0, 250.0, 9000.0])
def test_scipys_distribution(freedom):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.1, 1.0, 2.5, 6.0):
        assert student.two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-4, abs=1e-12)
    for level in (0.5, 0.9, 0.95, 0.999):
        assert student.quantile(level, freedom) == pytest.approx(stats.t.ppf(0.5 + level / 2, freedom), rel=1e-4)
