"""IDA-L: the density is predicted from the embedding, so that scoring needs no anchors (mathematics, section 4)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import check_at_least
from .ida import DensityScorer


class Fit(NamedTuple):
    """The outcome of `SupportSetRegressor.fit`.

    Attributes:
        epochs: the number of epochs that were run.
        best_epoch: the epoch whose parameters were kept, counted from 1.
        held_out_error: the mean squared error of log F on the held-out part after that epoch, divided by the variance
            of log F.
    """

    epochs: int
    best_epoch: int
    held_out_error: float


class SupportSetRegressor(DensityScorer):
    """IDA-L: two fully connected layers with a ReLU predict the density F of an embedding, for scores without anchors.

    Equivalent to ``F = exp(mean + std * linear2(relu(linear1(f / |f|))))``. The layers are fitted by squared error to
    log F, standardised by its mean and standard deviation over the training set. log F is used because scores are
    made of it, because it keeps F positive, and because the size of the standardised log F depends on neither tau nor
    k. For tau near 1 the error of log F is proportional to that of F.

    Args:
        embedding_size: d.
        hidden: the number of units in the hidden layer.
        k, tau: those of the `IDAScorer` that computed the densities; `fit` cannot know them. Scores use tau too.
        max_bytes: memory for a block of pairs or hidden units.

    Attributes: mean, std: (), of log F over the training set; nan until `fit`.

    Raises:
        ValueError: a size is wrong, or tau <= 0; when scoring, as for `IDAScorer`.
        RuntimeError: it scores before it was fitted or loaded.

    Source: arXiv 2103.01559.

    >>> from verimargin import IDAScorer
    >>> embeddings, scorer = torch.randn(50, 8), IDAScorer(torch.randn(30, 8))
    >>> regressor = SupportSetRegressor(8, hidden=16)
    >>> regressor.fit(embeddings, scorer.density(embeddings), epochs=3).epochs
    3
    >>> regressor.score(embeddings[:2], embeddings[2:4]).shape
    torch.Size([2])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, embedding_size: int, hidden: int, k: int = 10, tau: float = 1.0, max_bytes: int = 2**26):
        super().__init__(embedding_size, k, tau, max_bytes)
        if int(hidden) != hidden or hidden < 1:
            raise ValueError(f"hidden is {hidden}: give an integer >= 1")
        self.linear1 = torch.nn.Linear(self.embedding_size, int(hidden))
        self.linear2 = torch.nn.Linear(int(hidden), 1)
        self.register_buffer("mean", torch.tensor(torch.nan))
        self.register_buffer("std", torch.tensor(torch.nan))

    def forward(self, unit: Tensor) -> Tensor:
        rows = max(1, self.max_bytes // (2 * self.linear1.out_features * 4))
        return torch.cat([self.predict(part) for part in unit.split(rows)])

    def predict(self, unit: Tensor) -> Tensor:
        """log F (N,) of unit embeddings (N, d), without checks and with gradients."""
        return self.mean + self.std * self._standard(unit)

    def fit(
        self,
        embeddings: Tensor,
        densities: Tensor,
        *,
        epochs: int = 200,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        held_out: float = 0.1,
        patience: int = 10,
        seed: int = 0,
        on_epoch: Callable[[int, float, float], None] | None = None,
    ) -> Fit:
        """Fit new weights to the densities of frozen embeddings, with Adam.

        A random part of the embeddings is held out. The weights of the epoch that predicts it best are kept, and
        fitting stops after `patience` epochs without an improvement. The same seed gives the same weights.

        Args:
            embeddings: (N, d) of any norm, such as those of the encoder's training set.
            densities: (N,) the density F of each embedding, from `IDAScorer.density`.
            held_out: the share of the embeddings that is held out, in (0, 1).
            on_epoch: called after each epoch with its number, from 1, and the errors on the training and on the
                held-out part, measured as in `Fit`.

        Raises:
            ValueError: the sizes do not agree, there are fewer than 2 embeddings, or a density is not positive.
        """
        target = self._target(embeddings, densities)
        unit = self._unit(embeddings.detach()).to(target.dtype)
        held_out = check_at_least("held_out", held_out, 0.0, strict=True)
        if held_out >= 1.0 or min(epochs, batch_size, patience) < 1:
            raise ValueError(
                f"held_out is {held_out}, epochs {epochs}, batch_size {batch_size}, patience {patience}: give a "
                "held-out share below 1 and integers >= 1"
            )
        check_at_least("learning_rate", learning_rate, 0.0, strict=True)
        generator = torch.Generator().manual_seed(seed)
        kept_out = min(max(1, round(held_out * len(unit))), len(unit) - 1)
        order = torch.randperm(len(unit), generator=generator).to(unit.device)
        test, train = order[:kept_out], order[kept_out:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear1.reset_parameters()
            self.linear2.reset_parameters()
        self.mean.copy_(target[train].mean())
        spread = target[train].std(correction=0)
        self.std.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))  # all densities may be equal
        target = (target - self.mean) / self.std
        optimizer = torch.optim.Adam(self.parameters(), learning_rate)
        best, best_epoch, best_state, epoch = float("inf"), 0, copy.deepcopy(self.state_dict()), 0
        with torch.autocast(unit.device.type, enabled=False):
            for epoch in range(1, epochs + 1):
                shuffled = train[torch.randperm(len(train), generator=generator).to(unit.device)]
                train_error = self._train(optimizer, unit, target, shuffled.split(batch_size))
                with torch.no_grad():
                    error = float(F.mse_loss(self._standard(unit[test]), target[test]))
                if on_epoch is not None:
                    on_epoch(epoch, train_error, error)
                if error < best:
                    best, best_epoch, best_state = error, epoch, copy.deepcopy(self.state_dict())
                elif epoch - best_epoch >= patience:
                    break
        self.load_state_dict(best_state)
        return Fit(epoch, best_epoch, best)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hidden={self.linear1.out_features}"

    def _train(
        self, optimizer: torch.optim.Optimizer, unit: Tensor, target: Tensor, batches: Sequence[Tensor]
    ) -> float:
        total = torch.zeros((), device=unit.device)
        for batch in batches:
            optimizer.zero_grad()
            error = F.mse_loss(self._standard(unit[batch]), target[batch])
            error.backward()
            optimizer.step()
            total += error.detach() * len(batch)
        return float(total) / sum(map(len, batches))

    def _standard(self, unit: Tensor) -> Tensor:
        """(log F - mean) / std of unit embeddings (N, d)."""
        return self.linear2(F.relu(self.linear1(unit.to(self.linear1.weight.dtype)))).squeeze(1)

    def check_fitted(self) -> None:
        if not bool(torch.isfinite(self.mean)):
            raise RuntimeError("the regressor is not fitted: call fit(), or load the state dict of a fitted one")

    def _log_density(self, unit: Tensor) -> Tensor:
        self.check_fitted()
        return super()._log_density(unit)

    def _target(self, embeddings: Tensor, densities: Tensor) -> Tensor:
        densities = torch.as_tensor(densities, device=embeddings.device)
        if embeddings.dim() != 2 or len(embeddings) < 2 or densities.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}, densities {tuple(densities.shape)}: give (N, "
                f"{self.embedding_size}) and (N,), N at least 2"
            )
        good = torch.isfinite(densities) & (densities > 0)
        if not bool(good.all()):
            n = int((~good).nonzero()[0])
            raise ValueError(f"density {n} is {float(densities[n]):g}: give positive ones, as IDAScorer.density() does")
        return densities.double().log().to(self.linear1.weight.dtype)
