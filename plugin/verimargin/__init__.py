"""Verification losses and scores: Q-Margin, adaptive margins, exact heads for millions of classes, IDA, and metrics."""

from . import metrics
from .head.prototype_head import PrototypeHead
from .head.statistics import TrainingStatistics
from .head.subcenters import PrunedSubcenters, prune_subcenters
from .kappa.momentum_encoder import MomentumEncoder
from .kappa.tracker import KappaTracker
from .losses.divergence import alpha_divergence_loss, alpha_softargmax
from .losses.margin_loss import MarginLoss, a3m, adaface, arcface, cosface, entmax, kappaface, q_margin
from .losses.margins import AdaMargin, ArcMargin, CosMargin, Margin, NoMargin, QMargin
from .losses.quality import Quality
from .losses.schedule import Ramp, Schedule
from .losses.suggest import suggest
from .scoring.ida import IDAScorer
from .scoring.regressor import SupportSetRegressor
from .scoring.score_norm import ScoreNorm
from .sharded_state import gather_state_dict, split_state_dict

__version__ = "0.1.0"

__all__ = [
    "AdaMargin",
    "ArcMargin",
    "CosMargin",
    "IDAScorer",
    "KappaTracker",
    "Margin",
    "MarginLoss",
    "MomentumEncoder",
    "NoMargin",
    "PrototypeHead",
    "PrunedSubcenters",
    "QMargin",
    "Quality",
    "Ramp",
    "Schedule",
    "ScoreNorm",
    "SupportSetRegressor",
    "TrainingStatistics",
    "a3m",
    "adaface",
    "alpha_divergence_loss",
    "alpha_softargmax",
    "arcface",
    "cosface",
    "entmax",
    "gather_state_dict",
    "kappaface",
    "metrics",
    "prune_subcenters",
    "q_margin",
    "split_state_dict",
    "suggest",
]
