"""Student's t distribution, for any number of degrees of freedom from 1 on."""

from __future__ import annotations

import math

import numpy as np

MOST_FREEDOM = 1e4  # beyond which it is the normal distribution to four digits
LARGEST = 1e4  # quantile: the 0.9999 one with a single degree of freedom is 6366
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def two_sided(t: float, freedom: float) -> float:
    """The probability of a value beyond -t or t.

    With t = sqrt(freedom) tan(x), the density is proportional to cos(x)^(freedom - 1).

    >>> round(two_sided(2.262157, 9), 4)
    0.05
    """
    freedom = min(freedom, MOST_FREEDOM)
    low = math.atan(abs(t) / math.sqrt(freedom))
    half = (math.pi / 2.0 - low) / 2.0
    x = low + half * (_NODES + 1.0)
    tail = half * float((_WEIGHTS * np.cos(x) ** (freedom - 1.0)).sum())
    return tail * 2.0 / math.sqrt(math.pi) * math.exp(math.lgamma((freedom + 1.0) / 2.0) - math.lgamma(freedom / 2.0))


def quantile(level: float, freedom: float) -> float:
    """The t beyond which, on both sides together, a share of 1 - level lies."""
    low, high = 0.0, LARGEST
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if two_sided(middle, freedom) > 1.0 - level else (low, middle)
    return high
