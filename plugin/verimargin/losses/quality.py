"""The quality of a sample, judged by the norm of its embedding (mathematics, section 2): AdaFace, arXiv 2204.00964."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from torch import Tensor

from .._checks import check_at_least, check_share
from .._sharding import is_first_rank
from .divergence import as_dtype

logger = logging.getLogger(__name__)

SHORTEST, LONGEST = 0.001, 100.0  # norms are clipped to this range
EPS = 0.001  # added to the standard deviation
FIRST_STEPS = 20  # after so many, a warning is given if the norms do not differ
SMALLEST_SPREAD = 1e-3  # std / mean in a batch: networks have 0.03 and more, normalised embeddings 1e-4 and less
ALL_EQUAL = (
    "in the first %d steps the norms of the embeddings were all %.4g, so that the margin does not follow the quality "
    "of the samples: give embeddings, or norms, as they are before the normalisation; norms are clipped to 0.001..100"
)
MISSING = (
    "the margin follows the quality of each sample, and the norms of the embeddings before their normalisation are "
    "missing: call loss(cosine, target, norms), or use PrototypeHead, which knows them; in a SpeechBrain recipe give "
    "the cost `embedding_model: !ref <embedding_model>`"
)


class Quality(torch.nn.Module):
    """w g_i of each sample: how much longer its embedding is than those of the last batches.

    Equivalent to::

        g = ((norms.clip(0.001, 100) - mean) / (std + 0.001) * h).clip(-1, 1)
        return weight * g

    without a gradient. mean and std are running averages, in the state dict, over the batches that `update` has seen:
    new = momentum * batch + (1 - momentum) * old, from the start values 20 and 100.

    Args:
        weight: w in [0, 1], how far the margin follows the quality.
        h: > 0, the concentration: a norm that differs from the mean by the std has |g| = h.
        momentum: the share of each batch in the running averages, in (0, 1].

    Shapes: norms (B,), of the embeddings before they are normalised. They are computed in float32 or float64.

    The averages are of the samples of all ranks. A batch of one sample leaves std as it is. If the norms of the first
    20 training batches do not differ, as those of normalised embeddings, a warning says so, unless `torch.compile` has
    compiled this; it takes one read-back from the device, after the 20th.

    Source: arXiv 2204.00964, section 3.3.

    >>> Quality(weight=1.0)(torch.tensor([20.0, 1e9]))
    tensor([0.0000, 0.2664])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weight: float = 0.5, h: float = 0.333, momentum: float = 0.01):
        super().__init__()
        self.weight = check_share("the quality's weight", weight, "[0, 1]")
        self.h = check_at_least("h", h, 0.0, strict=True)
        self.momentum = check_share("the quality's momentum", momentum, "(0, 1]")
        # of shape (1,): torch.compile loses what is written into a float64 tensor without dimensions
        self.register_buffer("mean", torch.tensor([20.0]))
        self.register_buffer("std", torch.tensor([100.0]))
        self._spreads: list[Tensor] = []  # std / mean of each of the first steps

    @torch.no_grad()
    def forward(self, norms: Tensor | None) -> Tensor:
        norms = self._clipped(norms)
        g = ((norms - self.mean) / (self.std + EPS) * self.h).clamp(-1.0, 1.0)
        return self.weight * g

    @torch.no_grad()
    def update(self, norms: Tensor | None, gathered: bool = False) -> None:
        """Let the running averages follow a training batch; the head and `MarginLoss` call this once per step.

        Norms that are not finite are left out. A forward pass that is recomputed in the backward pass, as activation
        checkpointing does it, changes nothing.

        Args:
            norms: (B,) of this rank's samples, or of the samples of all ranks.
            gathered: whether they are of all ranks. If not, all ranks of the default process group, if there is one,
                have to call this.
        """
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:  # in a backward pass
            return
        clipped = self._clipped(norms)
        finite = torch.isfinite(norms)  # type: ignore[arg-type]
        x = as_dtype(torch.where(finite, clipped, 0.0), torch.float64)
        sums = torch.stack([finite.sum().double(), x.sum(), x.square().sum()])
        if not gathered and dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        count, total, squares = sums
        mean = total / count.clamp_min(1.0)
        std = ((squares - count * mean.square()) / (count - 1.0).clamp_min(1.0)).clamp_min(0.0).sqrt()
        self._watch(count, mean, std)
        for average, batch, samples in ((self.mean, mean, 1.0), (self.std, std, 2.0)):
            new = average.lerp(as_dtype(batch, average.dtype), self.momentum)
            average.copy_(torch.where(count >= samples, new, average))

    def _watch(self, count: Tensor, mean: Tensor, std: Tensor) -> None:
        """Warn after the first steps if the norms never differed within a batch."""
        if torch.compiler.is_compiling() or len(self._spreads) == FIRST_STEPS:
            return
        self._spreads.append(torch.where(count >= 2.0, std / mean.clamp_min(SHORTEST), -1.0))  # one sample cannot tell
        if len(self._spreads) < FIRST_STEPS or not is_first_rank():
            return
        largest, norm = torch.stack([torch.stack(self._spreads).max(), mean]).tolist()
        if 0.0 <= largest < SMALLEST_SPREAD:
            logger.warning(ALL_EQUAL, FIRST_STEPS, norm)

    def _clipped(self, norms: Tensor | None) -> Tensor:
        if norms is None:
            raise ValueError(MISSING)
        if norms.device != self.mean.device:
            raise ValueError(
                f"the running averages of the embeddings' norms are on {self.mean.device}, but the batch on "
                f"{norms.device}: move the loss with .to(); in a SpeechBrain recipe, list it under modules and under "
                "the checkpointer's recoverables"
            )
        if self.mean.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the running averages of the embeddings' norms are {self.mean.dtype}, which rounds away what a batch "
                "adds to them: keep the loss in float32; autocast and half-precision embeddings are fine"
            )
        return as_dtype(norms, torch.promote_types(norms.dtype, torch.float32)).clamp(SHORTEST, LONGEST)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, h={self.h:g}, momentum={self.momentum:g}"
