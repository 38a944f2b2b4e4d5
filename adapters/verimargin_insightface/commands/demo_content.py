"""What the report of `verimargin demo faces` says of its own: the people, their pictures, the config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from verimargin.commands.demo_report import Content
from verimargin.commands.demo_scores import Trials
from verimargin.commands.page import Sample
from verimargin.files.whole import whole

if TYPE_CHECKING:
    from ..drawn_faces.corpus import Faces

SHEET = 8, 12  # people and images of the contact sheet
CHANGE = """
+import verimargin as vm
+from verimargin_insightface import register

-config.margin_list = (1.0, 0.5, 0.0)
+config.loss = vm.q_margin(alpha=1.25, scale=32.0, margin=0.2)
+register(config)
"""


def content(faces: Faces, trials: Trials, settings: Mapping[str, Any]) -> Content:
    from ..drawn_faces.training import Recipe

    corpus, same = settings["corpus"], trials.same
    fewest, most = corpus["images"]
    recipe = Recipe(**settings["recipe"])
    return Content(
        title="verimargin demo faces",
        kind="drawn faces",
        data=(
            f"Drawn faces: {corpus['train_people']} training people with {fewest} to {most} images each, "
            f"{corpus['test_people']} other people in the test, {same.sum():,} target and {(~same).sum():,} non-target "
            f"trials, seed {settings['seed']}. These are not results on real faces: compare the losses with each other "
            "only."
        ),
        sample=lambda position, caption: Sample(caption, encoded(faces.images[position], ".jpg"), "image/jpeg"),
        pictures="![Faces of test people, one row for each person](faces.png)",
        training="",
        batch=recipe.batch_size,
        change=CHANGE,
        recipe=(
            "a config of arcface_torch, for Q-Margin; for KappaFace and adaptive Q-Margin see `verimargin hparams "
            "ms1mv3_r50_kappaface.py`"
        ),
        settings={"seed": settings["seed"], **corpus, **vars(recipe)},
    )


def write_sheet(path: Path, faces: Faces) -> None:
    from ..drawn_faces.corpus import contact_sheet

    columns = min(SHEET[1], int(np.bincount(faces.labels).max()))
    with whole(path) as hidden:
        hidden.write_bytes(encoded(contact_sheet(faces, min(SHEET[0], len(faces.names)), columns), ".png"))


def encoded(image: np.ndarray, kind: str) -> bytes:
    """The file of an RGB image."""
    import cv2

    return cv2.imencode(kind, image[..., ::-1])[1].tobytes()
