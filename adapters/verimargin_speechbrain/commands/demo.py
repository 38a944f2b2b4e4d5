"""`verimargin demo`: the three losses under one recipe, on a corpus made on the spot."""

from __future__ import annotations

import json
import os
from pathlib import Path

LOSSES = {
    "arcface": "ArcFace (s 30, m 0.2)",
    "cosface": "CosFace (s 30, m 0.2)",
    "qmargin": "Q-Margin (alpha 1.5, s 10, m 0.2)",
}
COLUMNS = {
    "EER %": ("eer", {}, 100.0),
    "minDCF x 100": ("min_dcf", {}, 100.0),
    "TAR @ FAR 1e-2 %": ("tar_at_far", {"far": 1e-2}, 100.0),
    "TAR @ FAR 1e-3 %": ("tar_at_far", {"far": 1e-3}, 100.0),
}
CORPUS = {"train_speakers": 72, "test_speakers": 40, "utterances": 12, "test_utterances": 5}


def demo(output: Path = Path("demo"), seed: int = 1986) -> None:
    """Make a small speech corpus, train ArcFace, CosFace and Q-Margin on it, and compare them.

    Interrupted, it goes on where it stopped when run again with the same OUTPUT; what is done is not done
    again. About six minutes on two CPU cores.
    """
    run(output, seed, CORPUS, number_of_epochs=10)


def run(output: Path, seed: int, corpus: dict, **recipe) -> dict:
    """The demo with a corpus of other sizes (`synthesis.make_corpus`) and other recipe values, for tests."""
    from rich.console import Console
    from rich.progress import track

    from .. import experiment, synthesis  # before anything is written, so that nothing is if one cannot be imported

    if seed < 0:
        raise ValueError(f"seed is {seed}: give an integer >= 0")
    console = Console()
    settings = {"seed": seed, "corpus": corpus, "recipe": recipe}
    _same_settings(output, settings)
    data = output / "corpus"
    if not data.is_dir():
        people = corpus["train_speakers"] + corpus["test_speakers"]
        made = synthesis.make_corpus(data, seed=seed, **corpus)
        for _ in track(made, "Synthesising speakers", total=people, console=console):
            pass
    results = {}
    for loss, title in LOSSES.items():
        finished = output / loss / "scores.npz"
        if not finished.exists():
            console.print(f"Training with {title}")
            scores, trials = experiment.score(experiment.train(data, output / loss, loss, seed, **recipe), data)
            _save(finished, scores, trials)
        results[loss] = _evaluate(finished, track, console, title)
    _report(output, results, settings, console)
    return results


def _same_settings(output: Path, settings: dict) -> None:
    """A folder holds one demo: other settings would mix old results with new."""
    path = output / "settings.json"
    if path.exists():
        if json.loads(path.read_text()) != settings:
            raise ValueError(f"{output} holds a demo with other settings ({path}): give another --output")
        return
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: give a folder as --output")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no demo: give another --output")
    output.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(settings, indent=2))


def _save(finished: Path, scores, trials: list) -> None:
    from verimargin.files.whole import save_npz

    from .. import corpus

    save_npz(
        finished,
        scores=scores,
        same=[trial.same for trial in trials],
        enrol=[corpus.speaker_of(trial.enrol) for trial in trials],
        test=[corpus.speaker_of(trial.test) for trial in trials],
    )


def _evaluate(finished: Path, track, console, title: str) -> dict:
    """Each metric with its 95 % interval over speakers, and the scores for the plot."""
    import numpy as np
    from verimargin import metrics

    with np.load(finished) as saved:
        scores, same, enrol, test = (saved[key] for key in ("scores", "same", "enrol", "test"))
    values = {}
    for column, (name, options, unit) in track(COLUMNS.items(), f"Intervals for {title}", console=console):
        metric = getattr(metrics, name)
        value = metric(scores[same], scores[~same], **options)[0]
        interval = metrics.confidence_interval(metric, scores, same, enrol, test, resamples=500, **options)
        values[column] = [unit * value, unit * interval.low, unit * interval.high]
    return {"title": title, "values": values, "positive": scores[same], "negative": scores[~same]}


def _report(output: Path, results: dict, settings: dict, console) -> None:
    from rich.table import Table
    from verimargin import metrics
    from verimargin.commands import plots
    from verimargin.commands.report import markdown

    corpus = settings["corpus"]
    data = (
        f"Synthetic speech (eSpeak NG): {corpus['train_speakers']} training speakers, {corpus['test_speakers']} others "
        f"tested, {len(next(iter(results.values()))['positive'])} target and "
        f"{len(next(iter(results.values()))['negative'])} non-target trials, seed {settings['seed']}; "
        "95 % intervals by resampling the test speakers."
    )
    table = Table("loss", *COLUMNS, title="verimargin demo", caption=data)
    rows = [
        [r["title"], *(f"{v:.3g} [{a:.3g}, {b:.3g}]" for v, a, b in r["values"].values())] for r in results.values()
    ]
    for row in rows:
        table.add_row(*row)
    curves = {r["title"]: metrics.det_curve(r["positive"], r["negative"]) for r in results.values()}
    plots.det(output / "det.png", curves, "Detection error tradeoff, synthetic speech")
    note = "Made by `verimargin demo`. These are not results on VoxCeleb: compare the losses, not the level."
    _write(
        output / "report.md",
        "\n".join(
            ["# verimargin demo", "", data, "", markdown(["loss", *COLUMNS], rows), "", "![DET](det.png)", "", note, ""]
        ),
    )
    _write(output / "results.json", json.dumps({k: r["values"] for k, r in results.items()}, indent=2))
    console.print(table)
    console.print(f"Report: {output / 'report.md'}, DET plot: {output / 'det.png'}")


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
