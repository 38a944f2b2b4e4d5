"""The images that a trial list compares: of a list of names, of a .bin of pairs, or of an IJB protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from verimargin.files.reading import read_text
from verimargin.files.templates import ENDING
from verimargin.files.trials import trial_names

from .mxnet_names import imdecode
from .recordio import Record
from .training_images import SIDE, decode
from .verification_set import read_bin

# Where arcface_torch's alignment puts the eyes, the nose and the corners of the mouth, as (x, y).
LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


class FaceTrials(NamedTuple):
    """The images of a trial list.

    Attributes:
        ids: what the list compares, images or templates.
        images: the name of each image.
        pixels: returns the image at a position, RGB, (112, 112, 3).
        identities: the first folders of the names, if they have folders.
        list_text: the list, if the file that was given is none.
        of_templates: whether the list compares templates, and images belong to these.
    """

    ids: list[str]
    images: Sequence[str]
    pixels: Callable[[int], np.ndarray]
    identities: set[str] = set()
    list_text: str = ""
    of_templates: bool = False


def open_face_trials(trials: Path, folder: Path | None, option: str = "--data") -> FaceTrials:
    """The images of a list.

    Args:
        folder: that of the images; for an IJB protocol the one that holds `loose_crop`, by default that beside `meta`.
        option: what the user gives the folder as.

    Raises:
        ValueError: there is no such list, or it is malformed; or an image is not there.
    """
    if not trials.is_file():
        raise ValueError(f"the trial list {trials} does not exist: give the path of a trial list")
    if trials.suffix == ".bin":
        return _pairs(trials)
    if trials.name.endswith(ENDING):
        return _protocol(trials, folder or trials.parent.parent, option)
    if folder is None:
        raise ValueError(f"{trials} names images, but no folder is given: give theirs as {option}")
    names = list(dict.fromkeys(trial_names(trials)))
    _check_files(trials, names, folder, f"the folder of the images as {option}")
    paths = [folder / name for name in names]
    identities = {name.split("/")[0] for name in names if "/" in name}
    return FaceTrials(names, names, lambda n: decode(Record.from_file(paths[n])), identities)


def _pairs(path: Path) -> FaceTrials:
    """Each image of a .bin once, named by its content, and each pair once."""
    encoded, same = read_bin(path)
    names = [hashlib.sha256(image).hexdigest()[:16] for image in encoded]
    by_name = dict(zip(names, encoded))
    ids = list(by_name)
    lines = dict.fromkeys(f"{int(s)} {one} {other}" for s, one, other in zip(same, names[::2], names[1::2]))

    def pixels(n: int) -> np.ndarray:
        return decode(Record.from_bytes(by_name[ids[n]], f"image {ids[n]} of {path}"))

    return FaceTrials(ids, ids, pixels, list_text="\n".join(lines) + "\n")


def _protocol(pairs: Path, folder: Path, option: str) -> FaceTrials:
    start = str(pairs).removesuffix(ENDING)
    points, templates = Path(f"{start}_name_5pts_score.txt"), Path(f"{start}_face_tid_mid.txt")
    for path in (points, templates):
        if not path.is_file():
            raise ValueError(f"{path} does not exist: give the protocol's own list, with its other lists beside it")
    rows = [line.split() for line in read_text(points).splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 12 or not all(map(_is_number, row[1:])):
            raise ValueError(f"line {number} of {points} is not '<name> <10 landmarks> <score>'")
    crops = folder / "loose_crop"
    _check_files(points, [row[0] for row in rows], crops, f"the folder that holds loose_crop as {option}")
    ids = list(dict.fromkeys(line.split()[1] for line in read_text(templates).splitlines() if len(line.split()) == 3))

    def pixels(n: int) -> np.ndarray:
        image = imdecode(Record.from_file(crops / rows[n][0]))
        return aligned(np.asarray(image), np.array(rows[n][1:11], float).reshape(5, 2))

    return FaceTrials(ids, [row[0] for row in rows], pixels, of_templates=True)


def aligned(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face (112, 112, 3), turned, scaled and shifted so that its five landmarks (5, 2) come to arcface_torch's.

    It is the similarity with the least squared error, as in `onnx_ijbc.py`: (x, y) -> (a x - b y + t, b x + a y + u).
    """
    import cv2

    (x, y), one, zero = points.T, np.ones(5), np.zeros(5)
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, t, u = np.linalg.lstsq(equations, LANDMARKS.T.reshape(-1), rcond=None)[0]
    return cv2.warpAffine(image, np.array([[a, -b, t], [b, a, u]]), (SIDE, SIDE), borderValue=0.0)


def _check_files(trials: Path, names: Sequence[str], folder: Path, remedy: str) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give {remedy}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{trials} names {missing[0]}{others}, not in {folder}: give {remedy}")


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
