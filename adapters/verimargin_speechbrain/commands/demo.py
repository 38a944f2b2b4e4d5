"""`verimargin demo`: three losses with the same recipe, on a small corpus that the demo makes itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from verimargin.commands import report
from verimargin.commands.demo_folder import demo_folder
from verimargin.commands.options import SeedOption
from verimargin.commands.progress import progress
from verimargin.files.embeddings import save_npz

from . import demo_report

if TYPE_CHECKING:
    from rich.console import Console

LOSSES = {
    "arcface": "ArcFace (s 30, m 0.2)",
    "cosface": "CosFace (s 30, m 0.2)",
    "qmargin": "Q-Margin (alpha 1.5, s 10, m 0.2)",
}
CORPUS = {"train_speakers": 72, "test_speakers": 120, "utterances": 12, "test_utterances": 5}


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

    settings = {"seed": seed, "corpus": corpus, "recipe": recipe}
    with demo_folder(output, settings):
        return _run(output, settings, Console())


def _run(output: Path, settings: dict[str, Any], console: Console) -> dict[str, report.Result]:
    from .. import experiment, synthesis

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
