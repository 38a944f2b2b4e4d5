"""KappaFace in a speaker recipe: watches the embedding model, and keeps a margin for each speaker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import verimargin as vm
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import TrainLogger
from torch import Tensor
from verimargin._sharding import Shard

from .training_samples import TrainingSamples

logger = get_logger(__name__)


class KappaFace(torch.nn.Module):
    """A `verimargin.KappaTracker` that follows the unmodified script's training; give it to `MarginCost` or
    `PrototypeCost`, which hand it the labels::

        training_samples: !new:verimargin_speechbrain.TrainingSamples
            annotation: !ref <train_annotation>
            label_encoder: !ref <save_folder>/label_encoder.txt
        kappa: !new:verimargin_speechbrain.KappaFace
            embedding_model: !ref <embedding_model>
            embedding_size: !ref <emb_dim>
            epoch_counter: !ref <epoch_counter>
            training_samples: !ref <training_samples>
        compute_cost: !new:verimargin_speechbrain.MarginCost
            loss: !apply:verimargin.kappaface {num_classes: !ref <out_n_neurons>, scale: 30, margin: 0.4}
            kappa: !ref <kappa>

    and list it under `modules`, so that it moves to the device, and under the checkpointer's `recoverables`, so that
    a resumed run goes on exactly. What the embedding model and its checkpoint hold does not change.

    In training a step looks at the embeddings of all samples of the batch, augmented copies too: with "momentum" at
    those of its `verimargin.MomentumEncoder` for the same features, with "memory" at the model's own, which needs
    `training_samples` as `collate_fn` in `dataloader_options`. An epoch of `epoch_counter` ends when the validation
    begins, or the next epoch does. Validation changes nothing. Of several processes each holds the whole state and
    sees all samples, so the first one's checkpoint is complete, for any number of processes.

    Args:
        embedding_model, epoch_counter: as in the recipe.
        embedding_size: of the model's embeddings.
        training_samples: a `TrainingSamples`.
        estimator: "momentum" or "memory".
        momentum: of the momentum encoder.
        memory_dtype: by name, such as float16.
        tracker: further arguments of `KappaTracker`: memory_momentum, temperature, gamma, warmup_epochs, memory_device.

    Source: IEEE Access 2023, 10.1109/ACCESS.2023.3338648.
    """

    def __init__(
        self,
        embedding_model: torch.nn.Module,
        embedding_size: int,
        epoch_counter: EpochCounter,
        training_samples: TrainingSamples,
        estimator: str = "momentum",
        momentum: float = 0.999,
        memory_dtype: str = "float32",
        **tracker: Any,
    ):
        super().__init__()
        self.embedding_size, self.epoch_counter, self.samples = embedding_size, epoch_counter, training_samples
        dtype = getattr(torch, str(memory_dtype), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"memory_dtype is {memory_dtype!r}: give the name of a torch type, such as float16")
        self._options: dict[str, Any] = {"estimator": estimator, **tracker}
        if estimator == "memory":
            self._options["memory_dtype"] = dtype
        self._new_tracker([1], 1)  # refuses bad options at once
        self.encoder = vm.MomentumEncoder(embedding_model, momentum) if estimator == "momentum" else None
        self.tracker: vm.KappaTracker | None = None
        self.open_epoch = 0  # the epoch whose samples the tracker holds
        self.m = 0.0  # the margin of a speaker with psi 1, when the loss has been seen
        self._embedding_model = [embedding_model]  # in a list, so that it is not a submodule too
        self._margins: list[vm.Margin] = []
        self._seen: tuple | None = None
        embedding_model.register_forward_hook(self._see, with_kwargs=True)

    def adapt(self, margin: vm.Margin) -> None:
        """Give the margin its psi of each class as soon as the training set is known, so that a checkpoint opens."""
        self._margins.append(margin)

    def observe(self, targets: Tensor, num_classes: int, margin: vm.Margin) -> None:
        """Take in the batch that the embedding model has just seen, and give the margin its psi of each class.

        Args:
            targets: (N, 1) as the script hands them to the cost; they then hold speaker ids alone, in place.
            num_classes: of the classifier.
            margin: of the loss.
        """
        tracker = self.prepare()
        if len(tracker.psi) != num_classes:
            raise ValueError(
                f"{self.samples.annotation} has {len(tracker.psi)} speakers, the classifier {num_classes} classes: set "
                f"out_n_neurons to {len(tracker.psi)}"
            )
        numbers = self.samples.unpack(targets)
        training = self._embedding_model[0].training
        if self.open_epoch != (self.epoch_counter.current if training else 0):
            self._end_epoch()
        if training:
            if not self.open_epoch:
                self._check_numbers(numbers)
                self._check_resumed(tracker)
            self.open_epoch = self.epoch_counter.current
            self._track(tracker, targets.flatten(), numbers.flatten())
        self.m, margin.psi = margin.m, tracker.psi

    def prepare(self) -> vm.KappaTracker:
        """The tracker, made when the training set is first known."""
        if self.tracker is None:
            self.tracker = self._new_tracker(self.samples.class_counts, len(self.samples.numbers))
        return self.tracker

    def _new_tracker(self, class_counts: Tensor | list[int], num_samples: int) -> vm.KappaTracker:
        options = dict(self._options)
        if options["estimator"] == "memory":
            options["num_samples"] = num_samples
        return vm.KappaTracker(class_counts, self.embedding_size, **options)

    def statistics(self) -> dict[str, float]:
        """The mean, least and largest kappa and margin over the speakers, for a log."""
        tracker = self.prepare()
        values = {"kappa": tracker.kappa, "margin": tracker.psi * self.m}
        return {
            f"{name} {kind}": float(getattr(value, kind)())
            for name, value in values.items()
            for kind in ("mean", "min", "max")
        }

    def get_extra_state(self) -> dict:
        self.prepare()
        return {
            "open_epoch": self.open_epoch,
            "class_names": self.samples.names,
            "samples": self.samples.fingerprint,
            "estimator": self._options["estimator"],
        }

    def set_extra_state(self, state: dict) -> None:
        if state["estimator"] != self._options["estimator"]:
            raise ValueError(
                f"the saved KappaFace has the estimator {state['estimator']!r}, this one "
                f"{self._options['estimator']!r}: resume with the same, or start in a new output_folder"
            )
        kept = {"class_names": self.samples.names, "samples": self.samples.fingerprint}
        if any(state[name] != value for name, value in kept.items()):
            raise ValueError(
                f"the saved KappaFace is of other speakers or samples, or of another order of them, than "
                f"{self.samples.annotation}: resume with the files of its own save_folder, or start in a new one"
            )
        self.open_epoch = state["open_epoch"]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.prepare()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> KappaFace:
        # The Brain moves its modules when the data are prepared, and before data-loading processes are forked,
        # which then share the numbers of the samples.
        if self.samples.exist():
            self.prepare()
        super()._apply(fn, recurse)
        if self.tracker is not None:
            for margin in self._margins:
                margin.psi = self.tracker.psi
        return self

    def _see(self, model: torch.nn.Module, args: tuple, kwargs: dict, embeddings: Tensor) -> None:
        if model.training:
            self._seen = (args, kwargs, embeddings.detach())

    def _check_numbers(self, numbers: Tensor) -> None:
        """On an epoch's first step: a read from the device."""
        if self.encoder is None and bool((numbers < 0).any()):
            raise ValueError(
                'samples without a number: estimator "memory" needs `collate_fn: !ref <training_samples>` among '
                "dataloader_options"
            )

    def _check_resumed(self, tracker: vm.KappaTracker) -> None:
        if self.epoch_counter.current > 1 and int(tracker.epoch) == 0:
            logger.warning(
                "KappaFace begins in epoch %d, with a psi of 1: to resume it too, list it under the checkpointer's "
                "recoverables",
                self.epoch_counter.current,
            )

    def _track(self, tracker: vm.KappaTracker, labels: Tensor, numbers: Tensor) -> None:
        if self._seen is None:
            raise RuntimeError(
                "the cost was asked for without a forward pass of KappaFace's embedding_model: give it the one that "
                "the recipe trains"
            )
        if not self.open_epoch:
            raise RuntimeError(
                "KappaFace's epoch_counter counts no epoch, so that psi would stay 1: give it the one that the script "
                "trains by, `epoch_counter: !ref <epoch_counter>`"
            )
        (args, kwargs, embeddings), self._seen = self._seen, None
        if self.encoder is not None:
            self.encoder.follow(self._embedding_model[0])
            embeddings = self.encoder(*args, **kwargs)
        group = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
        embeddings, index = Shard(len(tracker.psi), group).gather_batch(
            embeddings.flatten(0, -2), torch.stack([labels, numbers], 1)
        )
        tracker.update(embeddings, index[:, 0], index[:, 1])

    def _end_epoch(self) -> None:
        if self.open_epoch and self.tracker is not None:
            self.tracker.end_epoch()
        self.open_epoch = 0


class KappaLogger(TrainLogger):
    """A recipe's `train_logger` that is also given KappaFace's statistics, as further training statistics.

    Args:
        logger: SpeechBrain's, such as FileTrainLogger or TensorboardLogger.
        kappa: ``!ref <kappa>``.
    """

    def __init__(self, logger: TrainLogger, kappa: KappaFace):
        self.logger, self.kappa = logger, kappa

    def log_stats(
        self, stats_meta: dict[str, Any], train_stats: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        if train_stats is not None:
            train_stats = {**train_stats, **self.kappa.statistics()}
        self.logger.log_stats(stats_meta, train_stats, *args, **kwargs)
