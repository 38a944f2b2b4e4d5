"""What `embed-speech` and `evaluate` share: a file of embeddings of the rows of an annotation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from verimargin.commands.resumable import embed_resumably
from verimargin.files.embeddings import Embeddings, write_embeddings

from ..speech_encoder import SpeechEncoder


def write_recordings(
    out: Path,
    rows: Sequence[Mapping[str, str]],
    encoder: SpeechEncoder,
    settings: Sequence[str],
    source: dict[str, Any],
) -> None:
    """Embed the rows, one at a time, and write them to a new .npz; a killed run is continued by the next one.

    Args:
        settings: all that an embedding depends on, besides the encoder's weights and its row.
    """
    work = hashlib.sha256(json.dumps([[encoder.fingerprint, *settings], list(rows)]).encode()).hexdigest()[:12]
    partial = out.with_suffix(f".{work}.partial")
    vectors = embed_resumably(rows, lambda batch: np.stack([encoder(row) for row in batch]), partial, 1, "recording")
    ids, labels = [row["ID"] for row in rows], [row["spk_id"] for row in rows]
    sizes = np.array([int(row["stop"]) - int(row["start"]) for row in rows])
    seconds = sizes / encoder.sample_rate if encoder.sample_rate else None
    write_embeddings(out, Embeddings(ids, torch.from_numpy(vectors), labels, encoder.fingerprint, source, seconds))
    print(f"wrote {len(rows)} embeddings of {vectors.shape[1]} numbers to {out}")
