"""`verimargin demo faces`: four losses with the same network, on faces that the demo draws itself, and four scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from verimargin._processes import Send
from verimargin.commands.demo_folder import demo_folder
from verimargin.commands.demo_report import Results, write
from verimargin.commands.demo_scores import Cost, Trials, four_scores, save_run, step_cost
from verimargin.commands.demo_training import how_it_begins, sending, train_losses
from verimargin.commands.options import SeedOption
from verimargin.commands.progress import progress

from . import demo_content

if TYPE_CHECKING:
    from rich.console import Console

    from ..drawn_faces.corpus import Faces
    from ..drawn_faces.training import Run

CORPUS = {"train_people": 600, "test_people": 150, "images": (4, 20), "test_images": 6}


def demo(
    out: Annotated[Path, typer.Argument(help="a folder for this demo only")] = Path("demo-faces"),
    seed: SeedOption = 1986,
) -> None:
    """Draw faces, train ArcFace, Q-Margin, KappaFace and adaptive Q-Margin on them, and compare losses and scores.

    It takes about four minutes on two idle CPU cores, and needs no checkout of arcface_torch. Run again with the same
    OUT after an interruption, it continues after the last whole epoch.
    """
    run(out, seed, CORPUS)


def run(output: Path, seed: int, corpus: dict[str, Any], **recipe: Any) -> Results:
    """The demo, with the sizes of the corpus (`make_corpus`) and values of the `Recipe`; results by loss and method."""
    from rich.console import Console

    from ..drawn_faces import training  # noqa: F401 (if it cannot be imported, nothing has been written yet)

    settings = {"seed": seed, "corpus": corpus, "recipe": recipe}
    with demo_folder(output, settings):
        return _run(output, settings, Console())


def _run(output: Path, settings: dict[str, Any], console: Console) -> Results:
    from ..drawn_faces.corpus import read_faces
    from ..drawn_faces.training import LOSSES

    data = _draw(output / "faces", settings, console)
    test = read_faces(data / "test", partial(progress, title="reading", unit="image"))
    demo_content.write_sheet(output / "faces.png", test)
    console.print(f"The faces of {len(test.names)} test people: {output / 'faces.png'}")
    titles = {name: loss.title for name, loss in LOSSES.items()}
    runs = train_losses(_train_and_score, titles, data, output, settings, console)
    trials = _all_pairs(test)
    return write(output, runs, trials, demo_content.content(test, trials, settings), console)


def _draw(folder: Path, settings: dict[str, Any], console: Console) -> Path:
    from ..drawn_faces.corpus import make_corpus

    corpus = settings["corpus"]
    if folder.is_dir():
        console.print(f"Faces: drawn before, in {folder}")
        return folder
    people = corpus["train_people"] + corpus["test_people"]
    console.print(f"Drawing the faces of {people} people")
    for _ in progress(make_corpus(folder, seed=settings["seed"], **corpus), "drawing", "person", total=people):
        pass
    return folder


def _all_pairs(faces: Faces) -> Trials:
    """An image is named by its person and its number among the images of that person."""
    number = np.arange(len(faces.labels)) - np.searchsorted(faces.labels, faces.labels)
    samples = [f"{faces.names[person]}/{n:02d}" for person, n in zip(faces.labels, number)]
    return Trials.all_pairs(faces.labels, samples, faces.names)


def _train_and_score(name: str, data: Path, output: Path, settings: dict[str, Any], send: Send) -> None:
    import torch

    from ..drawn_faces.corpus import read_faces
    from ..drawn_faces.training import LOSSES, Recipe, Run, embed, one_process

    shown = sending(send)
    train, test = (read_faces(data / part, partial(shown, title=f"reading {part}")) for part in ("train", "test"))
    with one_process():
        training = Run(output, train, LOSSES[name], Recipe(**settings["recipe"]), settings["seed"])
        send(how_it_begins(training.resume(), training.path))
        training.train(shown)
        known, f = (embed(training.backbone, faces.images) for faces in (train, test))
        prototypes, labels = training.head.weight.detach(), torch.from_numpy(train.labels)
        scores = four_scores(prototypes, known, labels, f, settings["seed"], shown)
        save_run(output / "scores.npz", scores, training.step_seconds, _cost(training))


def _cost(training: Run) -> Cost:
    """What the head takes of a step, KappaFace's memory included, on random embeddings."""
    import torch

    batch = training.recipe.batch_size
    embeddings = torch.randn(batch, training.recipe.embedding_size, requires_grad=True)
    images = torch.randperm(len(training.faces.labels))[:batch]
    training.batch(images.numpy())
    labels = torch.from_numpy(training.faces.labels)[images]
    return step_cost(lambda: training.head(embeddings, labels), training.head.parameters())
