"""`verimargin demo`: three losses with the same recipe, on a small corpus that the demo makes itself."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from verimargin.commands import plots, report
from verimargin.commands.options import SeedOption
from verimargin.commands.progress import progress
from verimargin.files.embeddings import save_npz
from verimargin.files.reading import read_arrays, read_text
from verimargin.files.whole import alone, whole

from ..corpus import Trial, speaker_of

if TYPE_CHECKING:
    from rich.console import Console

LOSSES = {
    "arcface": "ArcFace (s 30, m 0.2)",
    "cosface": "CosFace (s 30, m 0.2)",
    "qmargin": "Q-Margin (alpha 1.5, s 10, m 0.2)",
}
CORPUS = {"train_speakers": 72, "test_speakers": 120, "utterances": 12, "test_utterances": 5}
LEFTOVER = ".*.partial*"  # of files.whole


def demo(
    out: Annotated[Path, typer.Argument(help="a folder for this demo only")] = Path("demo"), seed: SeedOption = 1986
) -> None:
    """Make a small speech corpus, train ArcFace, CosFace and Q-Margin on it, and compare them.

    It takes about four minutes on two idle CPU cores. Run again with the same OUT after an interruption, it continues
    where it stopped.
    """
    run(out, seed, CORPUS, number_of_epochs=10)


def run(output: Path, seed: int, corpus: dict[str, int], **recipe: Any) -> dict[str, report.Result]:
    """The demo, with the sizes of the corpus (`synthesis.make_corpus`) and further values of the recipe."""
    from rich.console import Console

    from .. import experiment, synthesis  # noqa: F401 (if one cannot be imported, nothing has been written yet)

    if seed < 0:
        raise ValueError(f"seed is {seed}: give an integer >= 0")
    console = Console()
    settings = {"seed": seed, "corpus": corpus, "recipe": recipe}
    _same_settings(output, settings)
    with alone(output / "settings.json"):
        return _run(output, settings, console)


def _run(output: Path, settings: dict[str, Any], console: Console) -> dict[str, report.Result]:
    from .. import experiment, synthesis

    _remove_leftovers(output)
    seed, corpus, recipe = settings["seed"], settings["corpus"], settings["recipe"]
    data = output / "corpus"
    if not data.is_dir():
        people = corpus["train_speakers"] + corpus["test_speakers"]
        made = synthesis.make_corpus(data, seed=seed, **corpus)
        for _ in progress(made, "synthesising", "speaker", total=people):
            pass
    results = {}
    for loss, title in LOSSES.items():
        finished = output / loss / "scores.npz"
        if not finished.exists():
            console.print(f"Training with {title}")
            scores, trials = experiment.score(experiment.train(data, output / loss, loss, seed, **recipe), data)
            _save(finished, scores, trials)
        results[title] = _evaluate(finished, title)
    _report(output, results, read_arrays(finished, ["same"])[0]["same"], settings, console)
    return results


def _same_settings(output: Path, settings: dict) -> None:
    """Refuse a folder with a demo of other settings, which would mix old results with new ones."""
    path = output / "settings.json"
    if path.exists():
        try:
            known = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}): give another folder") from error
        if known != settings:
            raise ValueError(f"{output} holds a demo with other settings ({path}): give another folder")
        return
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: give a folder")
    if output.exists() and any(not path.name.startswith(".") for path in output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no demo: give another folder")
    output.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _remove_leftovers(output: Path) -> None:
    """Remove what a killed demo was writing."""
    for path in sorted(output.rglob(LEFTOVER)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _save(finished: Path, scores: np.ndarray, trials: list[Trial]) -> None:
    save_npz(
        finished,
        scores=scores,
        same=[trial.same for trial in trials],
        enrol=[speaker_of(trial.enrol) for trial in trials],
        test=[speaker_of(trial.test) for trial in trials],
    )


def _evaluate(finished: Path, title: str) -> report.Result:
    names = ("scores", "same", "enrol", "test")
    saved, _ = read_arrays(finished, names)
    if len(saved) < len(names):
        raise ValueError(f"{finished} is damaged: remove it, and the demo makes it again")
    scores, same, enrol, test = (saved[name] for name in names)
    shown = partial(progress, title=f"Intervals, {title}")
    return report.evaluate(scores, same, (enrol, test), True, progress=shown)


def _report(
    output: Path, results: dict[str, report.Result], same: np.ndarray, settings: dict[str, Any], console: Console
) -> None:
    corpus = settings["corpus"]
    data = (
        f"Synthetic speech (eSpeak NG): {corpus['train_speakers']} training speakers, {corpus['test_speakers']} other "
        f"speakers in the test, {same.sum()} target and {(~same).sum()} non-target trials, seed {settings['seed']}."
    )
    rows = {title: result.figures for title, result in results.items()}
    plots.det(output / "det.png", {title: result.curve for title, result in results.items()}, "synthetic speech")
    table = report.write_table(output, rows, report.note(corpus["test_speakers"], True))
    note = "Made by `verimargin demo`. These are not results on VoxCeleb: compare the losses with each other only."
    report.write_markdown(output, "verimargin demo", [data, table, "![DET](det.png)", note])
    report.print_table(console, "verimargin demo", rows)
    console.print(data)
    console.print(f"Report: {output / 'report.md'}, DET plot: {output / 'det.png'}")
