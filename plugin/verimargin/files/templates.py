"""Template features of an IJB protocol, from the image embeddings that `ijb_evals.py --save_embeddings` writes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from .embeddings import Embeddings, checked
from .reading import read_arrays, read_text

ENDING = "_template_pair_label.txt"
QUALITY = 11  # the column of the detector's score, behind the name and five landmarks: a cut line has none


def holds_images(path: Path) -> bool:
    """Whether the file is an `.npz` written by `ijb_evals.py --save_embeddings`."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        return "embs" in read_arrays(path, ())[1]
    except (ValueError, OSError):  # the reader of embeddings says what is wrong with it
        return False


def read_templates(path: str | Path, pairs: str | Path) -> Embeddings:
    """One embedding per template, as `ijb_evals.py` makes it by default (N0D1F1), keeping the norms of the embeddings.

    Let x be the embedding of an image, x' that of its flipped copy and a its detector score. The mean of
    ``a (x + x')`` over the images of a medium, summed over the media of a template, is the template's embedding. Its
    size is the number of its images.

    Args:
        path: the `.npz` with `embs` and, for the flipped images, `embs_f`, one row for each line of
            `<ijbb or ijbc>_name_5pts_score.txt`.
        pairs: the protocol's `<ijbb or ijbc>_template_pair_label.txt`, in the same folder as
            `<ijbb or ijbc>_name_5pts_score.txt` and `<ijbb or ijbc>_face_tid_mid.txt`.

    Raises:
        ValueError: a list is missing or its length is not that of the embeddings, or a template has no direction.
    """
    path, pairs = Path(path), Path(pairs)
    lists = [Path(str(pairs).removesuffix(ENDING) + name) for name in ("_face_tid_mid.txt", "_name_5pts_score.txt")]
    if not pairs.name.endswith(ENDING) or not all(file.is_file() for file in lists):
        raise ValueError(
            f"{path} holds embeddings of images: give the protocol's own list as TRIALS (meta/ijbc{ENDING}), in the "
            "folder that also holds its _face_tid_mid.txt and _name_5pts_score.txt"
        )
    images = _images(path)
    template, medium = _columns(lists[0], (1, 2), "<name> <template> <medium>", np.int64).T
    quality = _columns(lists[1], (QUALITY,), "<name> <10 landmarks> <score>", np.float64)[:, 0]
    if not len(images) == len(template) == len(quality):
        raise ValueError(
            f"{path} has {len(images)} embeddings, {lists[0]} {len(template)} and {lists[1]} {len(quality)} lines: "
            "give one of each per image"
        )
    media, of_medium, count = np.unique(np.stack([template, medium]), axis=1, return_inverse=True, return_counts=True)
    templates, of_template = np.unique(media[0], return_inverse=True)
    means = _summed(images * quality[:, None], of_medium.reshape(-1), len(count)) / torch.from_numpy(count)[:, None]
    sizes = np.bincount(of_template[of_medium.reshape(-1)])
    vectors = _summed(means, of_template, len(templates)).numpy()
    return checked(path, [str(t) for t in templates], vectors, sizes=sizes)


def _images(path: Path) -> np.ndarray:
    """The embedding (N, d) of each image, with that of its mirror image if there is one."""
    held, names = read_arrays(path, ("embs", "embs_f"))
    if "embs" not in held:
        raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}, and no embeddings of images as `embs`")
    flipped = [held["embs_f"]] if "embs_f" in held and len(np.atleast_1d(held["embs_f"])) else []
    for rows in (held["embs"], *flipped):
        if rows.ndim != 2 or rows.shape != held["embs"].shape or rows.dtype.kind not in "fiu":
            raise ValueError(f"{path} holds {rows.dtype} of the shape {rows.shape}: give one row of numbers per image")
    return sum(flipped, held["embs"])


def _columns(path: Path, which: tuple[int, ...], line: str, dtype: type) -> np.ndarray:
    """These columns of a list, (lines, columns)."""
    text = io.StringIO(read_text(path))
    try:
        return np.loadtxt(text, dtype=dtype, usecols=which, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"{path} is not '{line}' on every line: {error}") from error


def _summed(rows: np.ndarray | torch.Tensor, group: np.ndarray, groups: int) -> torch.Tensor:
    rows = torch.as_tensor(rows, dtype=torch.float64)
    return rows.new_zeros(groups, rows.shape[1]).index_add_(0, torch.from_numpy(group), rows)
