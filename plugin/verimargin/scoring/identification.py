"""Rank-1 identification among a growing number of distractors, as in the MegaFace protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._checks import unit_rows
from .methods import Method, statistics
from .pairs import cosine_pairs

GALLERY_BLOCK = 8192


@torch.no_grad()
def rank1(
    method: Method,
    probes: Tensor,
    identity: np.ndarray,
    distractors: Tensor,
    sizes: Sequence[int],
    max_bytes: int = 2**26,
    progress: Callable[[Sequence], Iterable] = iter,
) -> list[float]:
    """The rank-1 rate for each number of distractors.

    For each ordered pair of a probe and its mate, two embeddings of one identity, the gallery consists of the mate and
    the first n distractors. The mate is at rank 1 if it scores above all of them; a tie with a distractor is a
    miss. Equivalent to::

        hits = [score(p, m) > max(score(p, x) for x in distractors[:n]) for p, m in pairs]
        sum(hits) / len(hits)

    with one (probes x distractors) product for all sizes, computed in blocks of `max_bytes`.

    Args:
        probes: (N, d).
        identity: (N,) numbers, equal for embeddings of the same identity.
        distractors: (D, d), of other identities, in the order in which they join the gallery.
        sizes: numbers of distractors in increasing order, each in 1..D.
        progress: wraps the list of blocks of probes, as tqdm does.

    Raises:
        ValueError: no identity has two embeddings, the sizes do not increase or are outside 1..D, or probes and
            distractors have different embedding sizes.

    Source: Kemelmacher-Shlizerman et al., "The MegaFace benchmark", CVPR 2016.
    """
    if list(sizes) != sorted(set(sizes)) or not sizes or not 1 <= sizes[0] <= sizes[-1] <= len(distractors):
        raise ValueError(
            f"the sizes are {list(sizes)}: give increasing numbers, up to that of the {len(distractors)} distractors"
        )
    if probes.shape[1] != distractors.shape[1]:
        raise ValueError(
            f"probes have {probes.shape[1]} numbers, distractors {distractors.shape[1]}: give embeddings of one encoder"
        )
    probe, mate = (torch.from_numpy(side).to(probes.device) for side in mates(identity))
    probe_statistics, distractor_statistics = statistics(method, probes), statistics(method, distractors)
    unit, others = unit_rows(probes, "probe"), unit_rows(distractors, "distractor")
    best = unit.new_full((len(unit), len(sizes)), -torch.inf)
    height = max(1, max_bytes // (unit.element_size() * GALLERY_BLOCK))
    for rows in progress(torch.arange(len(unit), device=unit.device).split(height)):
        here = [s[rows, None] for s in probe_statistics]
        for n, (first, last) in enumerate(zip([0, *sizes], sizes)):
            for start in range(first, last, GALLERY_BLOCK):
                part = slice(start, min(start + GALLERY_BLOCK, last))
                scores = method.combine(
                    unit[rows] @ others[part].T, here, [s[None, part] for s in distractor_statistics]
                )
                best[rows, n] = torch.maximum(best[rows, n], scores.amax(1))
    best = best.cummax(1).values
    mated = method.combine(
        cosine_pairs(unit, probe, mate), [s[probe] for s in probe_statistics], [s[mate] for s in probe_statistics]
    )
    return (mated[:, None] > best[probe]).double().mean(0).tolist()


def mates(identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the probe and of the mate, for each ordered pair of two embeddings of one identity."""
    order = np.argsort(identity, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(identity[order])) + 1)
    pairs = [np.stack([np.repeat(g, len(g)), np.tile(g, len(g))]) for g in groups if len(g) > 1]
    if not pairs:
        raise ValueError("no identity has two embeddings: identification needs a probe and its mate")
    probe, mate = np.concatenate(pairs, 1)
    return probe[probe != mate], mate[probe != mate]
