"""`verimargin.PrototypeHead` as a replacement for arcface_torch's `PartialFC_V2`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import verimargin as vm
from torch import Tensor
from verimargin.files.run_record import differences, settings_of
from verimargin.kappa.tracker import current_key

from .kappa import KappaFace, TrainingScript
from .rank_files import METADATA
from .schedule import ConfigSchedule

logger = logging.getLogger(__name__)

KAPPA = "kappa."  # the prefix of KappaFace's keys in the state dict
QUALITY = "loss.margin.quality."  # that of the running averages of a `Quality`


class PartialFC(vm.PrototypeHead):
    """The interface of `PartialFC_V2` (constructor, call and state dict) for any `verimargin.MarginLoss`.

    Equivalent to ``vm.PrototypeHead(embedding_size, num_classes, margin_loss, sample_rate, WORLD)``: the
    classes are split over all ranks, and the first ``num_classes % ranks`` ranks hold one more; the loss is
    that of the samples of all ranks; the gradient of the embeddings is multiplied by the number of ranks, because
    DistributedDataParallel averages it afterwards.

    Args:
        margin_loss: e.g. ``vm.q_margin(alpha=1.25, scale=32, margin=0.2)``.
        embedding_size: d.
        num_classes: C, over all ranks.
        sample_rate: below 1, a step uses the classes of the batch and randomly chosen others, which together are
            this share of each rank's classes. For alpha > 1 leave it at 1: most classes have probability 0 then
            and cost only one product, so that leaving them out saves little and makes the loss inexact.
        fp16: accepted for compatibility with `PartialFC_V2`. The head computes in the precision of the prototypes.
        screening, subcenters: as for `vm.PrototypeHead`.
        schedule: that of ``config.schedule``, which goes on with each training step or epoch.
        script: a running train_v2.py with ``config.kappa``. Each training step is passed on to a `KappaFace` (the
            attribute `kappa`), which scales the margin of each class.

    Shapes: local_embeddings (B, d), local_labels (B,) or (B, 1) global class ids; B may be 0 and may
    differ between ranks and steps. `weight` is (local classes, d), with sub-centres (local classes, K, d).

    The state dict has upstream's only key, `weight`, together with the tensors of the loss, if it has any, and those
    of KappaFace under `kappa.`. An upstream checkpoint loads here; a checkpoint of ours without these additional
    tensors loads upstream. The metadata of the state dict holds the layout of the shards, the margin, the count of the
    schedule and the state of the random generators, which a resumed run continues with.

    Raises:
        RuntimeError: there is no process group yet, or a state dict is of another number of ranks or classes, or comes
            from a run with another config.kappa, a margin that follows the quality unlike ours, or other data.
        ValueError: as for `vm.PrototypeHead`; on a CPU also for labels outside 0..C-1, including -1.

    Source: Partial FC, arXiv 2203.15565.
    """

    def __init__(
        self,
        margin_loss: vm.MarginLoss,
        embedding_size: int,
        num_classes: int,
        sample_rate: float = 1.0,
        fp16: bool = False,
        screening: str = "auto",
        script: TrainingScript | None = None,
        schedule: ConfigSchedule | None = None,
        subcenters: int = 1,
    ):
        if not dist.is_initialized():
            raise RuntimeError("there is no process group: call torch.distributed.init_process_group() first")
        world = dist.group.WORLD
        super().__init__(embedding_size, num_classes, margin_loss, sample_rate, world, screening, subcenters)
        self._settings = settings_of(margin_loss)  # now, because a schedule may change them
        self.kappa: KappaFace | None = None
        if script is not None:
            self.kappa = script.kappa = KappaFace(script, embedding_size, num_classes)
        self._tie_psi()
        self.schedule = schedule
        self.statistics = vm.TrainingStatistics(self)

    def forward(self, local_embeddings: Tensor, local_labels: Tensor) -> Tensor:  # type: ignore[override]
        labels = local_labels.reshape(-1)
        loss = super().forward(local_embeddings, labels)
        if self.kappa is not None and self.training:
            self.kappa.update(local_embeddings, labels)
        if self.training:
            self.statistics.update()
            if self.schedule is not None and self.schedule.unit == "steps":
                self.schedule.step()
        return loss

    def end_epoch(self) -> None:
        """Go on by one epoch, if the schedule counts epochs."""
        if self.schedule is not None and self.schedule.unit == "epochs":
            self.schedule.step()

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The parameters without those of the momentum encoder, which no optimiser may train."""
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if ".encoder." not in name)

    def _tie_psi(self) -> None:
        if self.kappa is not None:
            self.loss.margin.psi = self.kappa.tracker.psi

    def _apply(self, fn: Callable, recurse: bool = True) -> PartialFC:
        super()._apply(fn, recurse)
        self._tie_psi()  # the two copies of psi were moved separately
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """`weight` and further tensors; the rest goes to the metadata, so that the keys stay those of upstream."""
        state = super().state_dict(*args, **kwargs)
        if args or kwargs:  # called by a module that contains this one, whose load_state_dict needs the plain state
            return state
        state._metadata[""][METADATA] = {
            "layout": self._layout(),
            "settings": self._settings,
            "random": _random_state(self.weight.device),
            "loss": {key: state.pop(key) for key in list(state) if key.endswith("_extra_state")},
        }
        return state

    def load_state_dict(self, state_dict: Mapping, strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict, with the margin and the random generators if they were saved; refuse another shard's."""
        saved = getattr(state_dict, "_metadata", {}).get("", {}).get(METADATA, {})
        own = super().state_dict()
        del own["weight"]
        rows = len(state_dict.get("weight", self.weight))
        layout = saved.get("layout", {**self._layout(), "rows": rows})  # an upstream checkpoint has only its shape
        if layout != self._layout() or rows != len(self.weight):
            raise RuntimeError(
                f"the checkpoint's head has {_describe(layout)}, this one {_describe(self._layout())}: config.resume "
                "and `verimargin reshard` cut a checkpoint for another number of ranks; for other classes, train a new "
                "head on the backbone's model.pt"
            )
        shape, ours = (tuple(weight.shape[1:]) for weight in (state_dict.get("weight", self.weight), self.weight))
        if shape != ours:
            raise RuntimeError(
                f"the checkpoint's head has prototypes of shape {shape} for each class, this one {ours}: resume with "
                "the same config.subcenters and config.embedding_size; `verimargin prune` leaves one prototype per "
                "class, for config.pretrained"
            )
        self._compare_loss(saved.get("settings", {}))
        self._check_kappa(own, state_dict)
        self._check_quality(own, state_dict)
        loss = {key: value for key, value in saved.get("loss", {}).items() if key in own}  # a schedule may be new
        result = super().load_state_dict({**own, **loss, **state_dict}, strict, assign)
        self._tie_psi()
        if "random" in saved:
            _set_random_state(saved["random"])
        return result

    def _compare_loss(self, saved: Mapping[str, Any]) -> None:
        """Say so if a state dict is of another loss: a run is refused before, by its folder's record."""
        if found := differences(saved, self._settings):
            logger.warning("the checkpoint's head was trained with another loss (%s), and goes on with this one", found)

    def _check_kappa(self, own: Mapping, state_dict: Mapping) -> None:
        """Refuse a checkpoint with another KappaFace than ours. If it has none, KappaFace starts anew."""
        ours, theirs = (
            {current_key(key) for key in state if key.startswith(KAPPA) and not key.endswith("_extra_state")}
            for state in (own, state_dict)
        )
        if theirs and theirs != ours:
            raise RuntimeError(
                "the checkpoint's run had config.kappa "
                + ("with another estimator or network" if ours else "and this one has not")
                + ": resume with the same config.kappa, or train a new head on the backbone's model.pt"
            )
        if ours and not theirs:
            logger.warning("the checkpoint has no KappaFace: it begins now, with the margin m for every class")

    def _check_quality(self, own: Mapping, state_dict: Mapping) -> None:
        """Refuse the running averages of norms that no margin of ours has. If there are none, ours start anew."""
        ours, theirs = ({key for key in state if key.startswith(QUALITY)} for state in (own, state_dict))
        if theirs and not ours:
            raise RuntimeError(
                "the checkpoint's margin followed the quality of each sample, as AdaFace's does, and the one of "
                "config.loss does not: resume with the same config.loss, or train a new head on the backbone's model.pt"
            )
        if ours and not theirs:
            logger.warning(
                "the checkpoint has no running averages of the embeddings' norms, which the margin of config.loss "
                "follows: they begin now, at %g and %g",
                *(float(own[key]) for key in sorted(ours)),
            )

    def _layout(self) -> dict[str, int]:
        shard = self.shard
        return {"classes": shard.total, "ranks": shard.ranks, "rank": shard.rank, "rows": shard.size}


def _describe(layout: dict[str, int]) -> str:
    return (
        f"{layout['rows']} prototypes on rank {layout['rank']} of {layout['ranks']}, {layout['classes']} classes in all"
    )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Any]) -> None:
    if "seed" in state:  # the checkpoint is of fewer ranks, and none had this number
        torch.manual_seed(state["seed"])
        return
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
