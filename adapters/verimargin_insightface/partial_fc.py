"""`verimargin.PrototypeHead` in the place of arcface_torch's `PartialFC_V2`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import verimargin as vm
from torch import Tensor
from verimargin.kappa.tracker import current_key

from .kappa import KappaFace, TrainingScript

logger = logging.getLogger(__name__)

METADATA = "verimargin"
KAPPA = "kappa."  # what begins the state dict's keys of KappaFace


class PartialFC(vm.PrototypeHead):
    """`PartialFC_V2`'s constructor, call and state dict for any `verimargin.MarginLoss`.

    Equivalent to ``vm.PrototypeHead(embedding_size, num_classes, margin_loss, sample_rate, WORLD)``: the
    classes are split over all ranks, the first ``num_classes % ranks`` of which hold one more; the loss is
    that of all ranks' samples; the gradient of the embeddings is multiplied by the number of ranks, as
    averaging by DistributedDataParallel expects.

    Args:
        margin_loss: e.g. ``vm.q_margin(alpha=1.25, scale=32, margin=0.2)``.
        embedding_size: d.
        num_classes: C, over all ranks.
        sample_rate: below 1, a step uses the batch's classes and a random part of the others, this share
            of each rank's classes in all. For alpha > 1 leave it at 1: most classes have probability 0
            there and cost one product, so that leaving them out saves little and makes the loss inexact.
        fp16: accepted for `PartialFC_V2`'s sake. The head computes in the prototypes' precision.
        script: a running train_v2.py with ``config.kappa``: each training step goes to its `KappaFace`, here
            `kappa`, which scales the loss's margin for each class.

    Shapes: local_embeddings (B, d), local_labels (B,) or (B, 1) global class ids; B may be 0 and may
    differ by rank and by step. `weight` is (local classes, d).

    The state dict has upstream's one key, `weight`, beside the loss's own tensors if it has any and, under
    `kappa.`, KappaFace's: an upstream checkpoint loads here and, without these, the other way round. Which
    classes of how many ranks they are, the margin, and the random generators, which a resumed run goes on
    with, are in the state dict's metadata.

    Raises:
        RuntimeError: no process group yet, or a checkpoint of another number of ranks or classes, or of a run with
            another config.kappa or other data.
        ValueError: as `vm.PrototypeHead`; on a CPU for labels outside 0..C-1, which -1 is, too.

    Source: Partial FC, arXiv 2203.15565.
    """

    def __init__(
        self,
        margin_loss: vm.MarginLoss,
        embedding_size: int,
        num_classes: int,
        sample_rate: float = 1.0,
        fp16: bool = False,
        script: TrainingScript | None = None,
    ):
        if not dist.is_initialized():
            raise RuntimeError("there is no process group: call torch.distributed.init_process_group() first")
        super().__init__(embedding_size, num_classes, margin_loss, sample_rate, dist.group.WORLD)
        self.kappa: KappaFace | None = None
        if script is not None:
            self.kappa = script.kappa = KappaFace(script, embedding_size, num_classes)
        self._tie_psi()

    def forward(self, local_embeddings: Tensor, local_labels: Tensor) -> Tensor:  # type: ignore[override]
        labels = local_labels.reshape(-1)
        loss = super().forward(local_embeddings, labels)
        if self.kappa is not None and self.training:
            self.kappa.update(local_embeddings, labels)
        return loss

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The prototypes; the momentum encoder's are no optimiser's."""
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if ".encoder." not in name)

    def _tie_psi(self) -> None:
        if self.kappa is not None:
            self.loss.margin.psi = self.kappa.tracker.psi

    def _apply(self, fn: Callable, recurse: bool = True) -> PartialFC:
        super()._apply(fn, recurse)
        self._tie_psi()  # each was moved by itself
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """`weight` and the loss's tensors; the rest moves to the metadata, so that the keys stay upstream's."""
        state = super().state_dict(*args, **kwargs)
        if args or kwargs:  # as a part of another module: plain, for its load_state_dict
            return state
        state._metadata[""][METADATA] = {
            "layout": self._layout(),
            "random": _random_state(self.weight.device),
            "loss": {key: state.pop(key) for key in list(state) if key.endswith("_extra_state")},
        }
        return state

    def load_state_dict(self, state_dict: Mapping, strict: bool = True, assign: bool = False) -> Any:
        """Refuse another head's shard; restore the margin and the random generators if they were saved."""
        saved = getattr(state_dict, "_metadata", {}).get("", {}).get(METADATA, {})
        own = super().state_dict()
        del own["weight"]
        rows = len(state_dict.get("weight", self.weight))
        layout = saved.get("layout", {**self._layout(), "rows": rows})  # upstream's own tell by their shape alone
        if layout != self._layout() or rows != len(self.weight):
            raise RuntimeError(
                f"the checkpoint's head has {_words(layout)}, this one {_words(self._layout())}: resume with the "
                "number of ranks and classes it was saved with, or train a new head on the backbone's model.pt"
            )
        self._check_kappa(own, state_dict)
        result = super().load_state_dict({**own, **saved.get("loss", {}), **state_dict}, strict, assign)
        self._tie_psi()
        if "random" in saved:
            _set_random_state(saved["random"])
        return result

    def _check_kappa(self, own: Mapping, state_dict: Mapping) -> None:
        """KappaFace may begin with a checkpoint that has none of it, and must go on as it was otherwise."""
        ours, theirs = (
            {current_key(key) for key in state if key.startswith(KAPPA) and not key.endswith("_extra_state")}
            for state in (own, state_dict)
        )
        if theirs and theirs != ours:
            raise RuntimeError(
                "the checkpoint's run had config.kappa "
                + ("with another estimator or network" if ours else "and this one has not")
                + ": resume with the same, or train a new head on the backbone's model.pt"
            )
        if ours and not theirs:
            logger.warning("the checkpoint has nothing of KappaFace: it begins here, with a margin of m for each class")

    def _layout(self) -> dict[str, int]:
        shard = self.shard
        return {"classes": shard.total, "ranks": shard.ranks, "rank": shard.rank, "rows": shard.size}


def _words(layout: dict[str, int]) -> str:
    return (
        f"{layout['rows']} prototypes on rank {layout['rank']} of {layout['ranks']}, {layout['classes']} classes in all"
    )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
