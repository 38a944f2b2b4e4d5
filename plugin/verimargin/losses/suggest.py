"""Settings to start with, from the number of classes."""

from __future__ import annotations

import logging
import math

import torch

from .._checks import check_integer

logger = logging.getLogger(__name__)

MANY_CLASSES = 25_000  # from here on, alpha as published for faces; below, as for speakers
MARGIN = 0.2
LARGEST_SIZE = 4096  # of embeddings; networks have 128 to 2,048
SWAPPED = "embedding_size is %d, and num_classes only %d: suggest(num_classes, embedding_size) takes them so"


def suggest(num_classes: int, embedding_size: int | None = None) -> dict[str, float]:
    """An alpha, a scale and a margin for Q-Margin to start with: ``vm.q_margin(**vm.suggest(7205, 192))``.

    alpha is 1.25 from 25,000 classes on and 1.5 below, as published for faces and for speakers, and the margin 0.2. The
    scale is the one at which sqrt(C) classes per sample are active in the first step. Before training, the cosines with
    the prototypes are normal with standard deviation 1 / sqrt(d). With x_j the quantiles of the normal distribution at
    (j - 1/2) / C from above, and k = sqrt(C) classes above the threshold, sum_j p_j = 1 gives::

        scale = sqrt(d) / (alpha - 1) / (sum_{j <= k} (x_j - x_{k+1/2})^(1/(alpha-1)))^(alpha-1)

    `benchmarks/suggest.py` compares it with random prototypes and with the published settings.

    Args:
        num_classes: C >= 2.
        embedding_size: d; None means 512 from 25,000 classes on, and 192 below.

    Raises:
        ValueError: a number is none, or the embedding size is above 4,096 and the number of classes, as if they were
            swapped. A smaller size above the number of classes gives a warning.

    >>> suggest(1_000_000), suggest(6_000)
    ({'alpha': 1.25, 'scale': 29.0, 'margin': 0.2}, {'alpha': 1.5, 'scale': 6.7, 'margin': 0.2})
    """
    num_classes = check_integer("num_classes", num_classes, 2)
    size = 0 if embedding_size is None else check_integer("embedding_size", embedding_size, 1)
    if size > max(num_classes, LARGEST_SIZE):
        raise ValueError(SWAPPED % (size, num_classes) + f": give suggest({size}, {num_classes})")
    if size > num_classes:
        logger.warning(SWAPPED, size, num_classes)
    return settings(num_classes, size or None)


def settings(num_classes: int, embedding_size: int | None) -> dict[str, float]:
    """As `suggest`, whatever the sizes are."""
    many = num_classes >= MANY_CLASSES
    size = (512 if many else 192) if embedding_size is None else embedding_size
    alpha = 1.25 if many else 1.5
    active = max(1, min(round(math.sqrt(num_classes)), num_classes - 1))
    above = torch.arange(active, dtype=torch.float64)
    x = -torch.special.ndtri((above + 0.5) / num_classes)
    edge = -torch.special.ndtri(torch.tensor(active / num_classes, dtype=torch.float64))
    norm = float((x - edge).pow(1.0 / (alpha - 1.0)).sum() ** (alpha - 1.0))
    scale = math.sqrt(size) / ((alpha - 1.0) * norm)
    return {"alpha": alpha, "scale": float(f"{scale:.2g}"), "margin": MARGIN}
