"""What a calibration keeps of the list that it was fitted on: by hashes, the list is known again without its names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .dev_list import first_folders, folders
from .trial_set import TrialSet

DIGITS = 12  # hexadecimal ones of a hash: two lists of 10^4 names share one by chance in one of three million cases

FOLDERS, EMBEDDINGS = "folders", "embeddings"  # what is hashed


def marks(trial_set: TrialSet) -> dict[str, str]:
    """A digest of the trials in any order of the lines and of both sides, and the hashes of the identities.

    Identities are hashed by their folders or, where these are no identities, as the embeddings that belong to them. An
    embedding is hashed by its name or, as a number is no name, by its values.
    """
    kind = FOLDERS if folders(trial_set) else EMBEDDINGS
    return {"trials_sha256": _digest(trial_set), "hashed": kind, "hashes": " ".join(sorted(_names(trial_set, kind)))}


def is_same(kept: Mapping[str, Any], trial_set: TrialSet) -> bool:
    """Whether the marks are those of these trials."""
    return "trials_sha256" in kept and kept["trials_sha256"] == _digest(trial_set)


def shared(kept: Mapping[str, Any], trial_set: TrialSet) -> list[str]:
    """The names of identities, or of embeddings, of the trials that the marks have too."""
    known = set(str(kept.get("hashes", "")).split())
    return sorted(name for hashed, name in _names(trial_set, kept.get("hashed")).items() if hashed in known)


def _names(trial_set: TrialSet, kind: Any) -> dict[str, str]:
    """The names of what is hashed, by their hashes."""
    if kind == FOLDERS:
        return {_hash(name.encode()): name for name in first_folders(trial_set)}
    return dict(zip(_of_embeddings(trial_set), trial_set.embeddings.ids))


def _of_embeddings(trial_set: TrialSet) -> list[str]:
    rows = trial_set.embeddings.vectors.numpy()
    return [
        _hash(row.tobytes() if name.isdecimal() else name.encode()) for name, row in zip(trial_set.embeddings.ids, rows)
    ]


def _digest(trial_set: TrialSet) -> str:
    hashes, (enrol, test, same) = np.array(_of_embeddings(trial_set)), trial_set.trials
    place = np.unique(hashes, return_inverse=True)[1]  # equal for equal embeddings, in whatever order they are
    one, other = place[enrol], place[test]
    code = np.sort((np.minimum(one, other) * len(hashes) + np.maximum(one, other)) * 2 + same)
    return hashlib.sha256("".join(np.sort(hashes)).encode() + code.astype("<i8").tobytes()).hexdigest()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
