"""Drop-ins for InsightFace's arcface_torch, and a launcher for its scripts on today's libraries."""

from .partial_fc import PartialFC
from .registration import register

__all__ = ["PartialFC", "register"]
