"""The files that the scripts prepare in the save_folder before they train, and take as they find them the next time."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path

from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def drop_cut_files(save_folder: str | Path) -> None:
    """Remove a label encoder and a note of the preparation that a kill has cut short: the scripts write them anew."""
    for path, whole in (
        (Path(save_folder, "label_encoder.txt"), _encoder_is_whole),
        (Path(save_folder, "opt_voxceleb_prepare.pkl"), _pickle_is_whole),
    ):
        try:
            cut = not whole(path)
        except FileNotFoundError:  # not there yet, or another process has removed it
            continue
        if cut:
            logger.warning("%s was interrupted while it was written: it is removed, and will be written anew", path)
            path.unlink(missing_ok=True)  # another process may have removed it


def check_speakers_of(save_folder: str | Path, speakers: Collection[str]) -> None:
    """Refuse a save_folder whose label encoder is of another corpus; the script would take it and end with a KeyError.

    Raises:
        ValueError: the encoder has a speaker who is not among the training speakers.
    """
    path = Path(save_folder, "label_encoder.txt")
    if not path.is_file():
        return
    encoder = CategoricalEncoder()
    encoder.load(path)
    if strangers := sorted(set(encoder.lab2ind) - set(speakers)):
        raise ValueError(
            f"{path} has the speaker {strangers[0]!r}, who is not among the training speakers: it belongs to a run on "
            "another corpus; give this run an --output_folder of its own"
        )


def _encoder_is_whole(path: Path) -> bool:
    """Whether the last part, which begins with a separator, is there, up to the end of its line."""
    _, separator, end = path.read_text(encoding="utf-8", errors="replace").partition(
        CategoricalEncoder.EXTRAS_SEPARATOR
    )
    return bool(separator) and end.endswith("\n")


def _pickle_is_whole(path: Path) -> bool:
    data = path.read_bytes()
    return data.endswith(pickle.STOP) and len(data) > 1
