import math

import pytest
from verimargin import metrics


def test_large_scores_do_not_overflow_cllr():
    assert metrics.cllr([1e4], [-1e4]) == 0
    assert metrics.cllr([-1e4], [1e4]) == pytest.approx(1e4 / math.log(2))
