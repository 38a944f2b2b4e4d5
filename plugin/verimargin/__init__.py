"""Verification losses and scores: Q-Margin, adaptive margins, sparse million-class heads, IDA, metrics."""

from . import metrics
from .divergence import alpha_divergence_loss, alpha_softargmax
from .head import PrototypeHead
from .ida import IDAScorer
from .kappa import KappaTracker
from .loss import MarginLoss, arcface, cosface, kappaface, q_margin
from .margins import ArcMargin, CosMargin, Margin, NoMargin, QMargin
from .momentum import MomentumEncoder
from .regressor import SupportSetRegressor
from .score_norm import ScoreNorm

__version__ = "0.1.0"

__all__ = [
    "ArcMargin",
    "CosMargin",
    "IDAScorer",
    "KappaTracker",
    "Margin",
    "MarginLoss",
    "MomentumEncoder",
    "NoMargin",
    "PrototypeHead",
    "QMargin",
    "ScoreNorm",
    "SupportSetRegressor",
    "alpha_divergence_loss",
    "alpha_softargmax",
    "arcface",
    "cosface",
    "kappaface",
    "metrics",
    "q_margin",
]
