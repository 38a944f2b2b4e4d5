"""The random number generators as a recoverable of SpeechBrain's checkpointer."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from verimargin.files.reading import read_tensors

from .run_guard import watch_brains


@register_checkpoint_hooks
class RandomState:
    """Saves and restores the random generators of Python, NumPy and torch.

    With it, a resumed run equals an uninterrupted one, including random chunks and augmentation. List it under the
    checkpointer's `recoverables` as ``random_state: !new:verimargin_speechbrain.RandomState``.

    If there are several processes, the checkpointer saves the state of the first one. On loading, each of the others
    derives its own state from that, so that no two processes draw the same numbers.
    """

    may_begin_anew = True  # when it is added to the recipe of a run that has checkpoints

    def __init__(self) -> None:
        watch_brains()  # also in a recipe without a loss of ours, whose killed runs go on then

    @mark_as_saver
    def save(self, path: str | os.PathLike) -> None:
        kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]
        state = {
            "python": random.getstate(),
            "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, path)

    @mark_as_loader
    def load(self, path: str | os.PathLike, end_of_epoch: bool = True) -> None:
        state = read_tensors(path, "the checkpoint of a run")
        random.setstate(state["python"])
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            seed = random.getrandbits(31) + torch.distributed.get_rank()
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
