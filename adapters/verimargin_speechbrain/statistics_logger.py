"""The statistics of the training steps in the log of the unmodified script."""

from __future__ import annotations

from typing import Any

import verimargin as vm
from speechbrain.utils.train_logger import TrainLogger


class StatisticsLogger(TrainLogger):
    """A recipe's `train_logger` that adds those of `verimargin.TrainingStatistics` to the training statistics.

    Nobody has to name it: a Brain with a loss of ours gets it. With several processes, the means of a `MarginLoss` and
    the prototypes without a gradient are those of the first one's samples.

    Args:
        logger: the recipe's own, such as FileTrainLogger or TensorboardLogger.
        statistics: those of the loss.
    """

    def __init__(self, logger: TrainLogger, statistics: vm.TrainingStatistics):
        self.logger, self.statistics = logger, statistics

    def log_stats(
        self, stats_meta: dict[str, Any], train_stats: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        if train_stats is not None:
            train_stats = {**train_stats, **self.statistics.read()}
            without = self.statistics.without_gradient()
            if without is not None:
                train_stats["prototypes without gradient"] = without
        self.logger.log_stats(stats_meta, train_stats, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "logger":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.logger, name)
