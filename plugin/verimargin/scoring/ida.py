"""IDA: verification scores that take each embedding's inter-class neighbours into account (mathematics, section 4).

The density F is computed once per embedding. After that, a pair costs its cosine and one logarithm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check_at_least, check_pairs, unit_rows
from .neighbours import nearest_cosines
from .pairs import cosine_pairs, mutual_likelihood, mutual_likelihood_pairs, slices


def dao(similarity: Tensor, log_density1: Tensor, log_density2: Tensor, tau: float = 1.0, log: bool = False) -> Tensor:
    """The DAO score ``exp(tau * similarity) * (F1 + F2)`` from log F1 and log F2, or its logarithm.

    The similarity is the inner product of the embeddings, or PFE's `mutual_likelihood`. Shapes: any that
    broadcast. The logarithm ranks pairs in the same order and never overflows.

    Raises:
        ValueError: a score overflows or underflows in its dtype; use log=True then.

    Source: arXiv 2103.01559.

    >>> dao(torch.tensor(0.5), torch.tensor(0.0), torch.tensor(0.0), log=True)  # 0.5 + log 2
    tensor(1.1931)
    """
    value = tau * similarity + torch.logaddexp(log_density1, log_density2)
    return value if log else _exp(value, "DAO", f"at tau {tau:g}: take log=True, which ranks pairs in the same order")


class DensityScorer(torch.nn.Module):
    """What `IDAScorer` and `SupportSetRegressor` share: densities and DAO scores of embeddings.

    A subclass implements ``forward(unit)``, which returns the log density (N,) of unit embeddings (N, d) without
    checking them. Embeddings may have any norm and floating-point dtype, and must be on the scorer's device. They are
    normalised, and scores are computed in float32 or float64 even under autocast, without gradients. The state dict
    holds k, tau and everything else that a score depends on.
    """

    def __init__(self, embedding_size: int, k: int, tau: float, max_bytes: int):
        super().__init__()
        for name, value in (("embedding_size", embedding_size), ("k", k), ("max_bytes", max_bytes)):
            if int(value) != value or value < 1:
                raise ValueError(f"{name} is {value}: give an integer >= 1")
        self.embedding_size, self.k, self.max_bytes = int(embedding_size), int(k), int(max_bytes)
        self.tau = check_at_least("tau", tau, 0.0, strict=True)

    @torch.no_grad()
    def log_density(self, f: Tensor) -> Tensor:
        """log F of embeddings (..., d), shape (...)."""
        return self._log_density(self._unit(f))

    def density(self, f: Tensor) -> Tensor:
        """F of embeddings (..., d), shape (...): low for an embedding with many close neighbours of other identities.

        Raises:
            ValueError: as for `log_density`, or a density overflows or underflows in its dtype.
        """
        return _exp(self.log_density(f), "the density", f"at tau {self.tau:g}: take log_density()")

    @torch.no_grad()
    def score(self, f1: Tensor, f2: Tensor, log: bool = False, variance: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The DAO of each embedding in f1 (..., d) with that in the same row of f2 (..., d), or with a single one (d,).

        Equivalent to ``exp(tau * (u1 * u2).sum(-1)) * (density(f1) + density(f2))`` with u = f / |f|. With
        log=True it is the logarithm of that, which ranks pairs in the same order and works for any tau.

        Args:
            variance: (v1, v2), of the shapes of f1 and f2, for Gaussian embeddings N(u, variance): PFE's
                `mutual_likelihood` then replaces the inner product. Use log=True with it.

        Raises:
            ValueError: the embeddings have another size, f1 and f2 have other rows, or an embedding is nan, infinite
                or all zero; or a score overflows or underflows in its dtype.
        """
        unit1, unit2 = self._unit(f1), self._unit(f2)
        if len({tuple(unit.shape) for unit in (unit1, unit2) if unit.dim() > 1}) > 1:
            raise ValueError(
                f"f1 has shape {tuple(unit1.shape)}, f2 {tuple(unit2.shape)}: give one row of f2 for each of f1, or a "
                "single embedding (d,)"
            )
        if variance is None:
            similarity = (unit1 * unit2).sum(-1)
        else:
            variance1, variance2 = _variance(variance[0], unit1), _variance(variance[1], unit2)
            similarity = mutual_likelihood(unit1, variance1, unit2, variance2)
        return dao(similarity, self._log_density(unit1), self._log_density(unit2), self.tau, log)

    @torch.no_grad()
    def score_pairs(
        self,
        f: Tensor,
        i: Tensor,
        j: Tensor,
        log: bool = False,
        variance: Tensor | None = None,
        log_density: Tensor | None = None,
    ) -> Tensor:
        """The DAO (P,) of the embeddings i with the embeddings j, computing each density once.

        Equivalent to ``score(f[i], f[j])``. Apart from arrays of the sizes N d and P, it needs about 2 max_bytes of
        memory at most.

        Args:
            f: (N, d).
            i, j: (P,) integers below N; pairs may be repeated.
            log, variance: as for `score`; variance is (N, d).
            log_density: (N,), the result of `log_density(f)` if it has been computed before.
        """
        unit = self._unit(f)
        i, j = check_pairs(i, j, len(unit), unit.device)
        if log_density is None:
            log_density = self._log_density(unit)
        elif log_density.shape != unit.shape[:1]:
            raise ValueError(
                f"log_density has shape {tuple(log_density.shape)}: give one per embedding, ({len(unit)},)"
            )
        with torch.autocast(unit.device.type, enabled=False):
            if variance is None:
                similarity = cosine_pairs(unit, i, j, self.max_bytes)
            else:
                similarity = mutual_likelihood_pairs(unit, _variance(variance, unit), i, j, self.max_bytes)
        for part in slices(0, len(i), self.max_bytes // 64):
            similarity[part] = dao(similarity[part], log_density[i[part]], log_density[j[part]], self.tau, log)
        return similarity

    def get_extra_state(self) -> Tensor:  # a tensor, because the module could not be traced otherwise
        return torch.tensor([self.k, self.tau], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.k, self.tau = int(state[0]), float(state[1])

    def extra_repr(self) -> str:
        return f"embedding_size={self.embedding_size}, k={self.k}, tau={self.tau:g}"

    def _log_density(self, unit: Tensor) -> Tensor:
        with torch.autocast(unit.device.type, enabled=False):
            return self(unit.reshape(-1, self.embedding_size)).view(unit.shape[:-1])

    def _unit(self, f: Tensor) -> Tensor:
        f = torch.as_tensor(f)
        if f.dim() < 1 or f.shape[-1] != self.embedding_size or not f.is_floating_point():
            raise ValueError(
                f"embeddings are {f.dtype} of shape {tuple(f.shape)}: give floating-point (..., {self.embedding_size}) "
                "from the encoder that the scorer was made for"
            )
        device = next(self.buffers()).device
        if f.device != device:
            raise ValueError(f"the embeddings are on {f.device}, the scorer on {device}: move the scorer with .to()")
        return unit_rows(f, "the embedding of sample")


class IDAScorer(DensityScorer):
    """IDA-R: the density of an embedding from its k nearest anchors.

    With unit anchors A (M, d) and u = f / |f|, equivalent to::

        s = (u @ A.T).topk(k).values                       # cosines with the k nearest, (N, k)
        F = 1 / (tau * s).exp().sum(1)                     # density
        score = (tau * u1 @ u2).exp() * (F1 + F2)          # DAO

    without holding the (N, M) cosines, which are computed in blocks of `max_bytes`. The k nearest anchors are exact.

    Args:
        anchors: (M, d) embeddings of any norm, of identities other than those to be scored: the nearest anchor of
            an embedding that is itself an anchor would be that anchor, and its density would mean nothing.
        k: at most M.
        tau: > 0. If it is large, take log=True when scoring.
        max_bytes: memory for a block of cosines; it hardly affects the speed.

    Raises:
        ValueError: k > M, k < 1, tau <= 0, there are no anchors, or an anchor is nan, infinite or all zero; when
            scoring, as for `score`.

    Source: arXiv 2103.01559; its defaults are k = 10 and tau = 1, with 50,000 anchors.

    >>> scorer = IDAScorer(torch.eye(3), k=2)
    >>> scorer.density(torch.tensor([[2.0, 0.0, 0.0]]))  # 1 / (e^1 + e^0)
    tensor([0.2689])
    >>> scorer.score_pairs(torch.eye(3), torch.tensor([0]), torch.tensor([1]))  # e^0 (F + F)
    tensor([0.5379])
    """

    anchors: Tensor

    def __init__(self, anchors: Tensor, k: int = 10, tau: float = 1.0, max_bytes: int = 2**26):
        anchors = torch.as_tensor(anchors)
        if anchors.dim() != 2 or not anchors.numel() or not anchors.is_floating_point():
            raise ValueError(
                f"anchors are {anchors.dtype} of shape {tuple(anchors.shape)}: give floating-point (anchors, d), "
                "at least one"
            )
        super().__init__(anchors.shape[1], k, tau, max_bytes)
        if k > len(anchors):
            raise ValueError(f"k is {k}, but there are {len(anchors)} anchors: lower k, or give more anchors")
        self.register_buffer("anchors", unit_rows(anchors.detach(), "anchor"))

    def forward(self, unit: Tensor, own: Tensor | None = None) -> Tensor:
        log_density = unit.new_empty(len(unit))
        for rows, nearest in nearest_cosines(unit, self.anchors, self.k, self.max_bytes, own):
            log_density[rows] = self.of_support(nearest)
        return log_density

    def of_support(self, nearest: Tensor) -> Tensor:
        """log F (...) from the cosines (..., k) with the support set."""
        return -torch.logsumexp(self.tau * nearest, -1)

    @torch.no_grad()
    def support(self, f: Tensor) -> Tensor:
        """The cosines of embeddings (..., d) with their k nearest anchors, in no particular order; shape (..., k)."""
        unit = self._unit(f)
        with torch.autocast(unit.device.type, enabled=False):
            rows = unit.reshape(-1, self.embedding_size)
            parts = [nearest for _, nearest in nearest_cosines(rows, self.anchors, self.k, self.max_bytes)]
        return torch.cat(parts).view(*unit.shape[:-1], self.k)

    @torch.no_grad()
    def log_density(self, f: Tensor, own: Tensor | None = None) -> Tensor:
        """log F of embeddings (..., d), shape (...).

        Args:
            own: (N,) for embeddings (N, d), some of whose identities are anchors too: the position of the anchor of
                the embedding's own identity, or -1 if there is none. That anchor is left out of the support set,
                which is to hold other identities only.
        """
        if own is None:
            return super().log_density(f)
        unit, own = self._unit(f), torch.as_tensor(own)
        if unit.dim() != 2 or own.shape != unit.shape[:1] or own.is_floating_point():
            raise ValueError(f"own is {own.dtype} of shape {tuple(own.shape)}: give one integer per embedding, (N,)")
        own = own.long()  # a small dtype cannot hold the number of anchors that it is compared with
        if not bool(((own >= -1) & (own < len(self.anchors))).all()) or self.k >= len(self.anchors):
            raise ValueError(
                f"own holds {int(own.min())}..{int(own.max())} and k is {self.k}, with {len(self.anchors)} anchors: "
                "give positions of anchors, or -1, and k below their number"
            )
        with torch.autocast(unit.device.type, enabled=False):
            return self(unit, own.to(unit.device))


def _variance(variance: Tensor, unit: Tensor) -> Tensor:
    if variance.shape != unit.shape:
        raise ValueError(
            f"variances have shape {tuple(variance.shape)}, the embeddings {tuple(unit.shape)}: give one per number"
        )
    good = torch.isfinite(variance) & (variance > 0)
    if not bool(good.all()):
        raise ValueError(
            f"a variance is {float(variance[~good][0]):g}: give positive ones; if the encoder predicts the logarithm "
            "of the variance, give its exp()"
        )
    return variance.to(unit.dtype)


def _exp(log: Tensor, what: str, advice: str) -> Tensor:
    limits = torch.finfo(log.dtype)
    value = log.exp()
    if not bool(((value >= limits.tiny) & (value <= limits.max)).all()):
        worst = log.flatten()[log.abs().argmax()]
        raise ValueError(f"{what} of e^{float(worst):.4g} is beyond {str(log.dtype).split('.')[1]} {advice}")
    return value
