"""What the report of `verimargin demo speech` says of its own: the corpus, the recordings, the training, the recipe."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verimargin.commands import plots
from verimargin.commands.demo_report import Content
from verimargin.commands.demo_scores import Run, Trials
from verimargin.commands.page import Sample
from verimargin.files.reading import read_text

LOGGED = re.compile(r"(train|valid) ([a-z_ ]+): ([-+.\deinf]+)")
PANELS = "validation error", "active classes", "zero loss"
CHANGE = """
-compute_cost: !new:speechbrain.nnet.losses.LogSoftmaxWrapper
-    loss_fn: !new:speechbrain.nnet.losses.AdditiveAngularMargin
-        margin: 0.2
-        scale: 30
+compute_cost: !new:verimargin_speechbrain.QMarginLoss
+    margin: 0.2
+    scale: 10
"""


def content(output: Path, runs: Mapping[str, Run], trials: Trials, settings: Mapping[str, Any]) -> Content:
    corpus, wav, same = settings["corpus"], output / "corpus" / "wav", trials.same
    return Content(
        title="verimargin demo",
        kind="synthetic speech",
        data=(
            f"Synthetic speech (eSpeak NG): {corpus['train_speakers']} training speakers, {corpus['test_speakers']} "
            f"other speakers in the test, {same.sum():,} target and {(~same).sum():,} non-target trials, seed "
            f"{settings['seed']}. These are not results on VoxCeleb: compare the losses with each other only."
        ),
        sample=lambda position, caption: recording(wav / trials.samples[position], caption),
        pictures="",
        training=training(output, {run.title: output / name / "train_log.txt" for name, run in runs.items()}),
        batch=settings["recipe"].get("batch_size", 32),
        change=CHANGE,
        recipe=(
            "`train_ecapa_tdnn.yaml` of SpeechBrain's VoxCeleb recipes, for Q-Margin; for KappaFace and adaptive "
            "Q-Margin see `verimargin hparams train_ecapa_kappaface.yaml`"
        ),
        settings={"seed": settings["seed"], **corpus, **settings["recipe"]},
    )


def training(output: Path, logs: Mapping[str, Path]) -> str:
    """A figure of what the training logs have of each epoch; only the losses with an alpha above 1 have all of it."""
    series: dict[str, dict[str, list[float]]] = {}
    for title, log in logs.items():
        for line in read_text(log).splitlines():
            for stage, name, value in LOGGED.findall(line):
                panel = f"validation {name}" if stage == "valid" else name
                if panel in PANELS:
                    series.setdefault(panel, {}).setdefault(title, []).append(float(value))
    epochs = {len(values) for panel in series.values() for values in panel.values()}
    if len(epochs) != 1:
        return ""
    plots.lines(output / "training.png", range(1, max(epochs) + 1), "epoch", series)
    return "## Training\n\n![What the training logged of each epoch](training.png)"


def recording(path: Path, caption: str) -> Sample:
    """A recording, as small as a browser can play it."""
    import soundfile

    kind = "MP3" if "MP3" in soundfile.available_formats() else "FLAC"
    samples, rate = soundfile.read(path, dtype="float32")
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format=kind)
    return Sample(caption, encoded.getvalue(), {"MP3": "audio/mpeg", "FLAC": "audio/flac"}[kind])
