"""The target entry of each sample: its logit, its reference measure and the margin's slope."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import EPS
from .step import Step


class Target:
    """The target entries of a batch. Each is computed on the rank that holds its class, then known to all ranks.

    Attributes, all (B,):
        owned: whether this rank holds the class of the sample.
        column: as in `Step`.
        cosine: c_y, that of the nearest sub-centre.
        logit, log_q: the margin's theta_y and log q_y.
        slope: d theta_y / d c_y on the rank that holds the class; 0 if no gradient is needed.
    """

    def __init__(self, unit: Tensor, weight: Tensor, step: Step, differentiate: bool):
        self.column, self.owned = step.column, step.column >= 0
        rows = weight.unflatten(0, (-1, step.subcenters))[step.column.clamp_min(0)]  # (B, K, d)
        cosines = (unit[:, None] * rows).sum(2) / torch.linalg.vector_norm(rows, dim=2).clamp_min(EPS)
        cosine = cosines.amax(1).clamp(-1.0, 1.0)
        with torch.set_grad_enabled(differentiate):
            logit, log_q = step.loss.target(cosine.requires_grad_(differentiate), step.label, step.norms)
            self.slope = torch.zeros_like(cosine)
            if differentiate:
                (self.slope,) = torch.autograd.grad(logit.sum(), cosine)
        own = torch.stack([cosine.detach(), logit.detach(), log_q.detach()])
        self.cosine, self.logit, self.log_q = step.shard.sum(own * self.owned)
