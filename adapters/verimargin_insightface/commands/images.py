"""What `embed-faces` and `evaluate` share: embeddings of many images, which a killed run leaves to the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from verimargin.commands.resumable import embed_resumably

Encoder = Callable[[np.ndarray], Tensor]  # of RGB images (B, 112, 112, 3)


def embed_images(
    out: Path, number: int, pixels: Callable[[int], np.ndarray], encoder: Encoder, key: Any, batch_size: int = 64
) -> np.ndarray:
    """The embeddings (N, d) of images.

    Args:
        out: the file that they will be written to; what is unfinished is kept beside it.
        number: N.
        pixels: returns the image at a position, (112, 112, 3).
        key: all that the embeddings depend on, as JSON takes it.
    """
    work = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    partial = out.with_suffix(f".{work}.partial")

    def embed(batch: Sequence[int]) -> np.ndarray:
        return encoder(np.stack([pixels(n) for n in batch])).float().cpu().numpy()

    return embed_resumably(range(number), embed, partial, batch_size, "batch")
