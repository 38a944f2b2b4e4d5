"""The report of `verimargin demo`."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from verimargin.commands import plots, report, sections
from verimargin.commands.page import Report, Sample, Samples, code, literal
from verimargin.commands.progress import progress
from verimargin.files.reading import read_arrays, read_text

from ..corpus import Trial, read_trials, speaker_of

if TYPE_CHECKING:
    from rich.console import Console

HEARD = 3  # of the hardest speakers
LOGGED = re.compile(r"(train|valid) ([a-z_ ]+): ([-+.\deinf]+)")
CHANGE = """
-compute_cost: !new:speechbrain.nnet.losses.LogSoftmaxWrapper
-    loss_fn: !new:speechbrain.nnet.losses.AdditiveAngularMargin
-        margin: 0.2
-        scale: 30
+compute_cost: !new:verimargin_speechbrain.QMarginLoss
+    margin: 0.2
+    scale: 10
"""


class Run(NamedTuple):
    """A loss that has been trained and scored."""

    folder: Path
    scores: np.ndarray  # one for each trial of the corpus
    step_seconds: float  # of training; nan if the training was over when it was resumed
    loss_seconds: float  # the part of the classifier and the loss
    loss_bytes: int  # that these keep for the backward pass


def read_run(finished: Path) -> Run:
    """The run whose results the demo has saved in this file.

    Raises:
        ValueError: the file is damaged, or another version of the demo has written it.
    """
    names = ("scores", "step_seconds", "cost")
    saved, _ = read_arrays(finished, names)
    if len(saved) < len(names):
        raise ValueError(f"{finished} is damaged or of an older version: remove it, and the demo makes it again")
    seconds, kept = map(float, saved["cost"])
    return Run(finished.parent, saved["scores"], float(saved["step_seconds"][0]), seconds, int(kept))


def write(
    output: Path, runs: Mapping[str, Run], settings: dict[str, Any], console: Console
) -> dict[str, report.Result]:
    """Evaluate the runs, by the title of the loss, write and show the report, and return the results."""
    trials = read_trials(output / "corpus" / "veri_test.txt")
    same = np.array([trial.same for trial in trials])
    names = sorted({speaker_of(trial.enrol) for trial in trials})
    number = {name: k for k, name in enumerate(names)}
    sides = [[number[speaker_of(name)] for name in side] for side in zip(*(trial[1:] for trial in trials))]
    identities = np.array(sides[0]), np.array(sides[1])
    results = {
        title: report.evaluate(
            run.scores, same, identities, True, progress=partial(progress, title=f"Intervals, {title}")
        )
        for title, run in runs.items()
    }
    rows = {title: result.figures for title, result in results.items()}
    scores = {title: run.scores for title, run in runs.items()}
    plots.det(output / "det.png", {title: result.curve for title, result in results.items()}, "synthetic speech")
    plots.distributions(output / "distributions.png", scores, same)
    corpus = settings["corpus"]
    data = (
        f"Synthetic speech (eSpeak NG): {corpus['train_speakers']} training speakers, {corpus['test_speakers']} other "
        f"speakers in the test, {same.sum():,} target and {(~same).sum():,} non-target trials, seed {settings['seed']}."
    )
    title = sections.best(results)
    hard = sections.hardest(scores[title], same, identities, results[title].threshold)

    def pair(trial: int) -> str:
        return f"{trials[trial].enrol}, {trials[trial].test}"

    parts = [
        f"{data} These are not results on VoxCeleb: compare the losses with each other only.",
        report.write_table(output, rows, report.note(len(names), True)),
        sections.differences(output, scores, same, identities, progress),
        "## Curves\n\n![DET curves](det.png)\n\n![Distributions of the scores](distributions.png)",
        training(output, runs),
        costs(runs),
        sections.hardest_table(hard, scores[title], dict(enumerate(names)), pair, title),
        samples(output / "corpus" / "wav", hard[:HEARD], trials, scores[title], names),
        f"## In your recipe\n\nIn `train_ecapa_tdnn.yaml` of SpeechBrain's VoxCeleb recipes:\n\n{code(CHANGE, 'diff')}",
        sections.versions({"seed": settings["seed"], **settings["corpus"], **settings["recipe"]}),
    ]
    Report("verimargin demo", parts).write(output)
    report.print_table(console, "verimargin demo", rows)
    console.print(data)
    console.print(f"Open {output / 'report.html'} in a browser, or read {output / 'report.md'}")
    return results


def training(output: Path, runs: Mapping[str, Run]) -> str:
    """A figure of what the training logs have of each epoch, but for the losses, which are not comparable."""
    series: dict[str, dict[str, list[float]]] = {}
    for title, run in runs.items():
        for line in read_text(run.folder / "train_log.txt").splitlines():
            for stage, name, value in LOGGED.findall(line):
                if name != "loss":
                    panel = f"validation {name}" if stage == "valid" else name
                    series.setdefault(panel, {}).setdefault(title, []).append(float(value))
    epochs = {len(values) for panel in series.values() for values in panel.values()}
    if len(epochs) != 1:
        return ""
    plots.lines(output / "training.png", range(1, max(epochs) + 1), "epoch", series)
    return "## Training\n\n![What the training logged of each epoch](training.png)"


def costs(runs: Mapping[str, Run]) -> str:
    """What a step of each loss takes, as Markdown."""
    rows = []
    for title, run in runs.items():
        step = "-" if np.isnan(run.step_seconds) else f"{1000 * run.step_seconds:.0f} ms"
        rows.append([literal(title), step, f"{1000 * run.loss_seconds:.2f} ms", f"{run.loss_bytes / 2**10:.0f} KiB"])
    table = report.markdown(["loss", "training step", "classifier and loss", "kept for the backward pass"], rows)
    note = (
        "A step of 32 recordings. The last two columns are of the classifier and the loss alone, which matter little "
        "with so few classes. For many classes, `verimargin plan` tells what a head takes."
    )
    return f"## Cost of a step\n\n{table}\n\n{note}"


def samples(
    wav: Path, hard: list[sections.Hard], trials: list[Trial], scores: np.ndarray, names: list[str]
) -> Samples | str:
    """The recordings of the worst trials of each of these speakers."""
    shown = []
    for h in hard:
        who, own, other = names[h.identity], trials[h.target], trials[h.non_target]
        mine, theirs = (other.enrol, other.test) if speaker_of(other.enrol) == who else (other.test, other.enrol)
        shown += [
            _recording(wav, own.enrol, f"{own.enrol}: speaker {who}"),
            _recording(wav, own.test, f"{own.test}: {who} too, with a score of only {scores[h.target]:.3g}"),
            _recording(wav, mine, f"{mine}: speaker {who}"),
            _recording(wav, theirs, f"{theirs}: not {who}, with a score of {scores[h.non_target]:.3g}"),
        ]
    return Samples(shown) if shown else ""


def _recording(wav: Path, name: str, caption: str) -> Sample:
    """A recording, as small as a browser can play it."""
    import soundfile

    kind = "MP3" if "MP3" in soundfile.available_formats() else "FLAC"
    samples, rate = soundfile.read(wav / name, dtype="float32")
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format=kind)
    return Sample(caption, encoded.getvalue(), {"MP3": "audio/mpeg", "FLAC": "audio/flac"}[kind])
