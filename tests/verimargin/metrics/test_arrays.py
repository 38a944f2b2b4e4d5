import math

import pytest
from verimargin import metrics


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.eer([], [0.1]), "no positive score"),
        (lambda: metrics.eer([0.1], []), "no negative score"),
        (lambda: metrics.eer([0.1, math.nan], [0.1]), "positive score 1 is nan"),
        (lambda: metrics.eer([0.1], [0.1], [1.0, 2.0]), "positive weights must be 1 numbers"),
        (lambda: metrics.eer([0.1], [0.1], None, [0.0]), "negative weights"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
