"""Drop-ins for SpeechBrain's speaker recipes, named from HyperPyYAML as `!new:verimargin_speechbrain.X`."""

from .classifier import PrototypeClassifier, PrototypeCost
from .corpus import check_corpus
from .cost import MarginCost, QMarginLoss
from .random_state import RandomState

__all__ = ["MarginCost", "PrototypeClassifier", "PrototypeCost", "QMarginLoss", "RandomState", "check_corpus"]
