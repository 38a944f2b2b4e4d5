"""How many classes are active before anything is learned."""

from __future__ import annotations

import math

import torch

from .._checks import check_at_least, check_integer

POINTS, ITERATIONS = 20_001, 100  # of the integral over a normal distribution, and of the bisection
LARGEST = 9.0  # standard deviations, beyond which a normal value is not met


def fresh_share(classes: float, size: int, alpha: float, scale: float, subcenters: int = 1) -> float:
    """The share of the classes that is active for a sample with fresh prototypes, from 1 / classes to 1.

    The cosines of random directions are nearly normal, with mean 0 and variance 1 / size. The threshold tau of their
    logits theta = scale c is where the probabilities of mathematics, section 1, are expected to sum to 1::

        classes E[(1 + (alpha-1)(theta - tau))_+ ^ (1/(alpha-1))] = 1

    and a class is active if theta > tau - 1/(alpha-1). A target and its margin, one class of many, are left out. With K
    sub-centres the cosine of a class is the largest of K.

    Raises:
        ValueError: classes, size or subcenters is no positive integer, alpha is not in (1, 8], or scale is not above 0.

    >>> f"{fresh_share(100_000, 512, alpha=1.25, scale=32):.3%}"
    '0.420%'
    """
    classes, size = check_integer("classes", classes, 1), check_integer("size", size, 1)
    if not 1.0 < alpha <= 8.0:
        raise ValueError(f"alpha is {alpha:g}: give a number above 1, at most 8")
    check_at_least("scale", scale, 1e-9)
    number = check_integer("subcenters", subcenters, 1)
    spread, width = scale / math.sqrt(size), 1.0 / (alpha - 1.0)
    normal = torch.linspace(-LARGEST, LARGEST, POINTS, dtype=torch.float64)
    log_density = -(normal**2) / 2 + (number - 1) * torch.special.log_ndtr(normal)  # of the largest
    log_weight = math.log(classes) + torch.log_softmax(log_density, dim=0)

    def expected_sum(end: float) -> float:
        """The sum of the probabilities if classes above this logit, tau - 1/(alpha-1), are active."""
        log_p = width * torch.log(((alpha - 1.0) * (spread * normal - end)).clamp_min(0.0))
        return float((log_weight + log_p).exp().sum())

    low, high = -LARGEST * spread - width * classes, LARGEST * spread
    for _ in range(ITERATIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_sum(middle) > 1.0 else (low, middle)
    log_below = torch.special.log_ndtr(torch.tensor(low / spread, dtype=torch.float64))
    share = float(-torch.expm1(number * log_below))
    return min(max(share, 1.0 / classes), 1.0)
