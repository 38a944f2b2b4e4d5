"""`verimargin demo`: three losses with the same recipe, on a small corpus that the demo makes itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from verimargin.commands import report
from verimargin.commands.options import SeedOption
from verimargin.commands.progress import progress
from verimargin.files.embeddings import save_npz
from verimargin.files.reading import read_text
from verimargin.files.whole import alone, whole

from . import demo_report

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
    if data.is_dir():
        console.print(f"Speech: synthesised before, in {data}")
    else:
        people = corpus["train_speakers"] + corpus["test_speakers"]
        console.print(f"Synthesising {people} speakers with eSpeak NG, on {len(os.sched_getaffinity(0))} CPUs")
        made = synthesis.make_corpus(data, seed=seed, **corpus)
        for _ in progress(made, "synthesising", "speaker", total=people):
            pass
    runs = {}
    for number, (loss, title) in enumerate(LOSSES.items(), 1):
        finished = output / loss / "scores.npz"
        if finished.exists():
            console.print(f"{title}: trained and scored before, in {finished.parent}")
        else:
            console.print(f"Training {number} of {len(LOSSES)}, {title}: {recipe.get('number_of_epochs')} epochs")
            brain = experiment.train(data, output / loss, loss, seed, **recipe)
            save_npz(
                finished,
                scores=experiment.score(brain, data)[0],
                step_seconds=[brain.step_seconds],
                cost=experiment.cost_of_loss(brain),
            )
        runs[title] = demo_report.read_run(finished)
    return demo_report.write(output, runs, settings, console)


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
