"""A folder with drawn faces: ``train/<person>/<n>.jpg`` and ``test/<person>/<n>.jpg``, as arcface_torch reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from verimargin._processes import Send, run_each
from verimargin.files.whole import whole_folder

from ..image_folder import images_of
from ..mxnet_names import imdecode
from ..recordio import Record
from .people import person
from .photographs import photograph

QUALITY = 95  # of the JPEG files
BLOCK = 50  # people that one process draws


class Faces(NamedTuple):
    """Images (N, 112, 112, 3), RGB, and the person of each as a position among the names."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]


def make_corpus(
    folder: Path, train_people: int, test_people: int, images: tuple[int, int], test_images: int, seed: int
) -> Iterator[str]:
    """Write a corpus to `folder`, and yield the name of each person when that person is done.

    The folder appears under its name when it is complete. The same seed gives the same bytes.

    Args:
        images: the fewest and the most images of a training person; the numbers between are equally likely.
    """
    sizes = np.random.default_rng(seed).integers(images[0], images[1] + 1, train_people).tolist()
    sizes += [test_images] * test_people
    with whole_folder(folder) as partial:
        places = [partial / ("train" if n < train_people else "test") / f"p{n:05d}" for n in range(len(sizes))]
        people = list(zip(range(len(sizes)), sizes, places))
        jobs = {f"drawing from person {k} on": (people[k : k + BLOCK], seed) for k in range(0, len(people), BLOCK)}
        yield from (name for _, name in run_each(_draw, jobs) if name)


def _draw(people: Sequence[tuple[int, int, Path]], seed: int, send: Send) -> None:
    """Draw people, each with a number, the number of images and a folder, and send the name of each who is done."""
    for number, shots, place in people:
        place.mkdir(parents=True)
        who = person(seed, number)
        for shot in range(shots):
            pixels = photograph(who, seed, number, shot)
            written = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            (place / f"{shot:02d}.jpg").write_bytes(written.tobytes())
        send(place.name)


def read_faces(folder: Path, progress: Callable[[Sequence], Iterable] = iter) -> Faces:
    """All images of ``folder/<person>/<n>.jpg``; `progress` wraps the list of files, as tqdm does."""
    paths = images_of(folder)
    names, labels = np.unique([path.parent.name for path in paths], return_inverse=True)
    return Faces(np.stack([imdecode(Record.from_file(path)) for path in progress(paths)]), labels, names.tolist())


def contact_sheet(faces: Faces, people: int, images: int) -> np.ndarray:
    """The first images of the first people, one row for each person; empty places are white."""
    side = faces.images.shape[1]
    sheet = np.full((people * side, images * side, 3), 255, np.uint8)
    for row in range(min(people, len(faces.names))):
        for column, image in enumerate(faces.images[faces.labels == row][:images]):
            sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = image
    return sheet
