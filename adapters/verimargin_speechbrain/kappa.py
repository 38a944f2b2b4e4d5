"""KappaFace in a speaker recipe: it observes the embedding model and adapts a margin for each speaker."""

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
    """A `verimargin.KappaTracker` that follows the training of the unmodified script.

    Give it to `MarginCost` or `PrototypeCost`, which pass the labels on to it::

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

    List it under `modules`, so that it moves to the device, and under the checkpointer's `recoverables`, so that
    a resumed run continues exactly. The content of the embedding model and of its checkpoint does not change.

    Each training step adds the embeddings of all samples in the batch, including augmented copies. With "momentum"
    they are computed by a `verimargin.MomentumEncoder` from the same features. With "memory" they are those of the
    model, and `training_samples` is needed as `collate_fn` in `dataloader_options`. An epoch ends when the validation
    or the next epoch begins. Validation changes nothing. If there are several processes, each sees all samples and
    holds the whole state, so the checkpoint of the first one is complete and can be resumed by any number of processes.

    Args:
        embedding_model, epoch_counter: those of the recipe.
        embedding_size: d, the size of the model's embeddings.
        training_samples: a `TrainingSamples`.
        estimator: "momentum" or "memory".
        momentum: m of the momentum encoder.
        memory_dtype: the name of a torch dtype, such as float16.
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
            raise ValueError(f"memory_dtype is {memory_dtype!r}: give the name of a torch dtype, such as float16")
        self._options: dict[str, Any] = {"estimator": estimator, **tracker}
        if estimator == "memory":
            self._options["memory_dtype"] = dtype
        self._new_tracker([1], 1)  # refuses bad options at once
        self.encoder = vm.MomentumEncoder(embedding_model, momentum) if estimator == "momentum" else None
        self.tracker: vm.KappaTracker | None = None
        self.open_epoch = 0  # the epoch whose samples the tracker is collecting, 0 between epochs
        self.m = 0.0  # the margin of a speaker with psi 1, known once the loss has been computed
        self._embedding_model = [embedding_model]  # in a list, so that it does not become a submodule too
        self._margins: list[vm.Margin] = []
        self._seen: tuple | None = None
        embedding_model.register_forward_hook(self._see, with_kwargs=True)

    def adapt(self, margin: vm.Margin) -> None:
        """Register a margin. It gets the psi of each class once the training set is known, before checkpoints load."""
        self._margins.append(margin)

    def settings(self) -> dict[str, Any]:
        """What must not change between the checkpoints of a run; where the memory is kept may."""
        options = {**self._options, **({"momentum": self.encoder.momentum} if self.encoder else {})}
        return {f"KappaFace.{name}": value for name, value in options.items() if not name.startswith("memory_d")}

    def observe(self, targets: Tensor, num_classes: int, margin: vm.Margin) -> None:
        """Add the batch that the embedding model has just embedded, and give the margin the psi of each class.

        Args:
            targets: (N, 1), as the script passes them to the cost; they are changed in place to plain speaker ids.
            num_classes: the classifier's number of classes.
            margin: the margin of the loss.
        """
        tracker = self.prepare()
        if len(tracker.psi) != num_classes:
            raise ValueError(
                f"{self.samples.annotation} has {len(tracker.psi)} speakers, the classifier has {num_classes} classes: "
                f"set out_n_neurons to {len(tracker.psi)}"
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
        """The tracker; the first call makes it, which is possible once the training set is known."""
        if self.tracker is None:
            self.tracker = self._new_tracker(self.samples.class_counts, len(self.samples.numbers))
        return self.tracker

    def _new_tracker(self, class_counts: Tensor | list[int], num_samples: int) -> vm.KappaTracker:
        options = dict(self._options)
        if options["estimator"] == "memory":
            options["num_samples"] = num_samples
        return vm.KappaTracker(class_counts, self.embedding_size, **options)

    def statistics(self) -> dict[str, float]:
        """The mean, smallest and largest kappa and margin over the speakers, for a log."""
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
                f"the saved KappaFace belongs to other speakers or samples than {self.samples.annotation}, or to "
                "another order of them: resume with the files of its own save_folder, or start in a new output_folder"
            )
        self.open_epoch = state["open_epoch"]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.prepare()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> KappaFace:
        # The Brain moves its modules after the data have been prepared and before the data-loading processes are
        # forked, so that these share the numbers of the samples.
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
        """Refuse samples without a number. It reads from the device, so it is called in an epoch's first step only."""
        if self.encoder is None and bool((numbers < 0).any()):
            raise ValueError(
                'samples have no number: estimator "memory" needs `collate_fn: !ref <training_samples>` in '
                "dataloader_options"
            )

    def _check_resumed(self, tracker: vm.KappaTracker) -> None:
        if self.epoch_counter.current > 1 and int(tracker.epoch) == 0:
            logger.warning(
                "KappaFace begins in epoch %d, with a psi of 1: list it under the checkpointer's recoverables, to "
                "resume it too",
                self.epoch_counter.current,
            )

    def _track(self, tracker: vm.KappaTracker, labels: Tensor, numbers: Tensor) -> None:
        if self._seen is None:
            raise RuntimeError(
                "the cost was computed without a forward pass of KappaFace's embedding_model: give it the one that the "
                "recipe trains"
            )
        if not self.open_epoch:
            raise RuntimeError(
                "KappaFace's epoch_counter counts no epoch, so that psi would stay 1: give it the one that the script "
                "uses, `epoch_counter: !ref <epoch_counter>`"
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
    """A recipe's `train_logger` that adds the statistics of KappaFace to the training statistics.

    Args:
        logger: a logger of SpeechBrain, such as FileTrainLogger or TensorboardLogger.
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
