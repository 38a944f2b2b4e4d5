"""Drop-ins for SpeechBrain's speaker recipes, to be named in HyperPyYAML as `!new:verimargin_speechbrain.X`."""

from importlib import import_module
from typing import Any

# A module is imported when one of its names is first used: importing SpeechBrain takes seconds.
_HOME = {
    "IDAEmbedding": "ida",
    "IDAEmbeddingModel": "ida",
    "KappaFace": "kappa",
    "KappaLogger": "kappa",
    "MarginCost": "cost",
    "MarginSchedule": "schedule",
    "PrototypeClassifier": "classifier",
    "PrototypeCost": "classifier",
    "QMarginLoss": "cost",
    "RandomState": "random_state",
    "TrainingSamples": "training_samples",
    "check_corpus": "corpus",
    "check_trials": "corpus",
    "check_verification": "corpus",
    "start_from": "finetuning",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"verimargin_speechbrain has no {name!r}: it has {', '.join(_HOME)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
