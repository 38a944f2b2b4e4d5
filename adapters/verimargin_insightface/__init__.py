"""Drop-ins for InsightFace's arcface_torch, a launcher for its scripts on today's libraries, and better scores for the
models of the insightface package.
"""

from .face_scorer import FaceScorer
from .partial_fc import PartialFC
from .registration import register

__all__ = ["FaceScorer", "PartialFC", "register"]
