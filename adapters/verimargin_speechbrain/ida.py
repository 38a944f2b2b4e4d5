"""IDA in SpeechBrain's evaluators: embeddings whose cosine similarity is their DAO."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor
from verimargin.files.networks import fingerprint
from verimargin.files.scorers import read_scorer
from verimargin.scoring.density_spread import spread_over_all_pairs
from verimargin.scoring.ida import DensityScorer, IDAScorer, dao

logger = get_logger(__name__)

ENOUGH = (32, 128, 512)  # embeddings after which the spread of their densities is looked at
SAME = 1.0 - 1e-6  # a larger cosine is that of an embedding with itself, in float32

# Functions that rearrange embeddings without changing any of them: they are applied to the densities too.
MOVES = frozenset(
    {
        *(getattr(Tensor, name) for name in ("__getitem__", "squeeze", "unsqueeze", "repeat", "expand", "to", "cpu")),
        *(getattr(Tensor, name) for name in ("cuda", "clone", "detach", "contiguous")),
        *(getattr(torch, name) for name in ("squeeze", "unsqueeze", "stack", "cat", "clone", "detach")),
    }
)


class IDAEmbeddingModel(torch.nn.Module):
    """An embedding model whose embeddings are compared by IDA, in the unmodified scripts::

        embedding_model: !new:verimargin_speechbrain.IDAEmbeddingModel
            model: !ref <ecapa>                  # the stock model; the pretrainer can load it through this one
            anchors: anchors.npz                 # from `verimargin anchors`, or a regressor from `verimargin train-ssr`

    `speaker_verification_cosine.py`, `SpeakerRecognition.verify_batch` and `verify_files` compare embeddings with
    `torch.nn.CosineSimilarity`, which returns the DAO for these embeddings (`IDAEmbedding`). A threshold for cosines
    does not fit the DAO: choose a new one. In every other respect the embeddings are those of the model.

    Args:
        model: is called with the arguments that this module gets.
        anchors: the file. It is refused at once if it cannot be used, and with the first embedding if it is for
            another embedding size or another encoder, or holds that embedding itself.
        k, tau: of IDA with anchors; a regressor has its own.
        log: whether scores are the logarithm of the DAO, which ranks pairs in the same order and works for any tau.
    """

    def __init__(self, model: torch.nn.Module, anchors: str | Path, k: int = 10, tau: float = 1.0, log: bool = False):
        super().__init__()
        self.log, self._file = log, read_scorer(anchors, k, tau)
        self.scorer, self.model = self._file.scorer, model
        self._checked = False
        self._seen: list[tuple[Tensor, Tensor]] | None = []  # unit embeddings and log densities, until they are enough

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        embeddings = self.model(*args, **kwargs)
        if not self._checked:  # not earlier, because the model has no weights yet when the recipe is loaded
            self._check(embeddings)
        log_density = self._log_density(embeddings)
        self._watch_spread(embeddings, log_density)
        return IDAEmbedding.wrap(embeddings, self.scorer, self.log, log_density)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load this module's state dict or, as a recipe's pretrainer does, the state dict of the model alone."""
        ours = all(name.startswith(("model.", "scorer.")) for name in state_dict)
        load = super().load_state_dict if ours else self.model.load_state_dict
        return load(state_dict, *args, **kwargs)

    def _check(self, embeddings: Tensor) -> None:
        self._file.check_size(embeddings.shape[-1])
        self._file.check_encoder(fingerprint(self.model))
        _warn_of_score_norm()
        self._checked = True

    def _log_density(self, embeddings: Tensor) -> Tensor:
        """The log densities; an embedding that is an anchor itself is refused, as its own nearest neighbour."""
        if not isinstance(self.scorer, IDAScorer):
            return self.scorer.log_density(embeddings)
        support = self.scorer.support(embeddings.detach())
        if bool((support > SAME).any()):
            raise ValueError(
                f"{self._file.path} holds an embedding that is to be scored, which would be its own nearest "
                "neighbour: make the anchors from identities that no trial is about"
            )
        return self.scorer.of_support(support)

    def _watch_spread(self, embeddings: Tensor, log_density: Tensor) -> None:
        """Say once, of the first embeddings, if their densities rival their cosines."""
        if self._seen is None:
            return
        unit = torch.nn.functional.normalize(embeddings.detach().flatten(0, -2).float())
        before = sum(len(rows) for rows, _ in self._seen)
        self._seen.append((unit, log_density.flatten().float()))
        count = before + len(unit)
        if not any(before < enough <= count for enough in ENOUGH):
            return
        rows, densities = (torch.cat(parts) for parts in zip(*self._seen))
        warning = spread_over_all_pairs(rows, densities, self.scorer.tau).warning
        if warning:
            logger.warning("after %d embeddings: %s", count, warning)
        if warning or count >= ENOUGH[-1]:
            self._seen = None


class IDAEmbedding(Tensor):
    """Embeddings (..., d) that carry their log densities along when they are indexed, stacked or repeated.

    ``torch.nn.functional.cosine_similarity(x1, x2, dim=-1)`` of two of them is ``exp(tau cos) (F1 + F2)``, or the
    logarithm of that. An operation that changes embeddings, such as a mean, gives an embedding whose density is
    computed when it is compared. Saved or pickled, they are plain tensors.
    """

    scorer: DensityScorer
    as_log: bool  # not called `log`, which is a method of tensors
    log_density: Tensor | None

    @classmethod
    def wrap(
        cls, embeddings: Tensor, scorer: DensityScorer, log: bool, log_density: Tensor | None = None
    ) -> IDAEmbedding:
        carrying = embeddings.as_subclass(cls)
        carrying.scorer, carrying.as_log = scorer, log
        carrying.log_density = scorer.log_density(embeddings) if log_density is None else log_density
        return carrying

    @classmethod
    def like(cls, first: IDAEmbedding | None, part: Any) -> Any:
        """The part as an embedding whose density is computed when it is compared, if it is of the same size."""
        if first is None or not isinstance(part, Tensor) or part.shape[-1:] != first.shape[-1:]:
            return part
        carrying = part.as_subclass(cls)
        carrying.scorer, carrying.as_log, carrying.log_density = first.scorer, first.as_log, None
        return carrying

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.nn.functional.cosine_similarity:
                return _dao(*args, **kwargs)
            out = func(*args, **kwargs)
            if _alters(func.__name__) and isinstance(args[0], cls):
                args[0].log_density = None
            first = next(_embeddings((args, tuple(kwargs.values()))), None)
            if type(out) in (tuple, list):  # of split, unbind or iteration
                return type(out)(cls.like(first, part) for part in out)
            carrying = cls.like(first, out)
            if isinstance(carrying, cls) and func in MOVES:
                moved = _moved(func, args, kwargs)
                if moved is not None and moved.shape == (*out.shape[:-1], 1):
                    carrying.log_density = moved[..., 0]
            return carrying

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self.clone()


def _warn_of_score_norm() -> None:
    """Say that the running script normalises scores; its recipe is its global name `params`."""
    params = getattr(sys.modules.get("__main__"), "params", None)
    if isinstance(params, Mapping) and "score_norm" in params:
        logger.warning(
            "the recipe has score_norm: %s, so IDA's scores are normalised by their statistics over the cohort, and "
            "scores.txt holds neither IDA's scores nor normalised cosines: leave score_norm out for IDA's own; "
            "`verimargin score --cohort` has both",
            params["score_norm"],
        )


def _dao(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    if dim not in (-1, x1.dim() - 1):
        raise ValueError(f"dim is {dim}: IDA compares embeddings along the last dimension, dim=-1")
    first = next(_embeddings((x1, x2)))
    cosine = torch.nn.functional.cosine_similarity(x1.as_subclass(Tensor), x2.as_subclass(Tensor), -1, eps)
    density1, density2 = _log_density(x1, first.scorer), _log_density(x2, first.scorer)
    return dao(cosine, density1, density2, first.scorer.tau, first.as_log)


def _log_density(x: Tensor, scorer: DensityScorer) -> Tensor:
    density = x.log_density if isinstance(x, IDAEmbedding) else None
    return scorer.log_density(x.as_subclass(Tensor)) if density is None else density


def _alters(name: str) -> bool:
    """Whether a method of this name works in place."""
    operator = name.startswith("__i") and name not in ("__int__", "__index__", "__invert__")
    return operator or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _moved(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The result of `func` with the densities (..., 1) in place of the embeddings (..., d), if each has a density."""
    parts = list(_embeddings((args, tuple(kwargs.values()))))
    tensors = [x for x in _flat((args, tuple(kwargs.values()))) if isinstance(x, Tensor) and x.is_floating_point()]
    if len(parts) < len(tensors) or any(part.log_density is None for part in parts):
        return None
    args, kwargs = _replaced(args), {name: _replaced(value) for name, value in kwargs.items()}
    return func(*args, **kwargs)


def _replaced(value: Any) -> Any:
    if isinstance(value, IDAEmbedding):
        return value.log_density.unsqueeze(-1)  # type: ignore[union-attr]
    return type(value)(map(_replaced, value)) if isinstance(value, (list, tuple)) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _embeddings(value: Any) -> Iterator[IDAEmbedding]:
    return (x for x in _flat(value) if isinstance(x, IDAEmbedding))
