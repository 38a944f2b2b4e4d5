"""What `vm.TrainingStatistics` knows of a training, in upstream's log and in TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.distributed as dist

from .data_loader import follow
from .partial_fc import PartialFC


class TrainingLog:
    """Follows a running train_v2.py: its steps are logged as often as upstream logs its own, and each epoch's end.

    Attributes:
        head: the head that trains, once the script has made it.
        writer: the TensorBoard writer, on rank 0, once the script has made its logging callback.
    """

    def __init__(self) -> None:
        self.head: PartialFC | None = None
        self.writer: Any = None
        self._steps = 0

    def replacements(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """The names of the script that are replaced, if it has them."""
        ours: dict[str, Any] = {}
        if "CallBackLogging" in names:
            ours["CallBackLogging"] = self._callback(names["CallBackLogging"])
        if "get_dataloader" in names:
            ours["get_dataloader"] = self._dataloader(names["get_dataloader"])
        return ours

    def _callback(self, kind: Any) -> Any:
        log = self

        class Logging(kind):
            def __init__(self, *args: Any, **kwargs: Any):
                super().__init__(*args, **kwargs)
                log.writer = self.writer

            def __call__(self, global_step: int, *args: Any, **kwargs: Any) -> None:
                super().__call__(global_step, *args, **kwargs)
                log.after_step(global_step, self.frequent)

        return Logging

    def _dataloader(self, get_dataloader: Callable) -> Callable:
        def dataloader(*args: Any, **kwargs: Any) -> Iterable:
            return follow(get_dataloader(*args, **kwargs), self.end_epoch)

        return dataloader

    def after_step(self, global_step: int, frequent: int) -> None:
        """Write the means since the last time, on rank 0, whose values are those of all ranks."""
        self._steps = global_step
        if self.head is not None and dist.get_rank() == 0 and global_step > 0 and global_step % frequent == 0:
            self._write(self.head.statistics.read())

    def end_epoch(self) -> None:
        """Count the prototypes that had no gradient in this epoch, over all ranks, and go on with the schedule."""
        if self.head is None:
            return
        self.head.end_epoch()
        without = self.head.statistics.without_gradient()
        if dist.get_rank() == 0 and without is not None:
            self._write({"prototypes without gradient": without})

    def _write(self, values: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"head/{name.replace(' ', '_')}", value, self._steps)
        line = "   ".join(f"{name} {value:.4g}" for name, value in values.items())
        logging.info("Global Step: %d   %s", self._steps, line)  # the root logger writes training.log
