"""`verimargin demo faces`: four losses with the same network, on faces that the demo draws itself, and four scores."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from verimargin.commands import plots, report
from verimargin.commands.demo_folder import demo_folder
from verimargin.commands.options import SeedOption
from verimargin.commands.progress import progress
from verimargin.files.embeddings import save_npz
from verimargin.files.reading import read_arrays
from verimargin.files.whole import whole
from verimargin.scoring.density_spread import density_spread

if TYPE_CHECKING:
    from rich.console import Console

    from ..drawn_faces.corpus import Faces

CORPUS = {"train_people": 600, "test_people": 150, "images": (4, 20), "test_images": 6}
METHODS = {"cosine": "cosine", "s-norm": "s-norm", "ida-r": "IDA-R", "ida-l": "IDA-L"}
SHOWN = "EER %", "TAR % at FAR 1e-2", "TAR % at FAR 1e-3"  # figures of the short tables
SHEET = 8, 12  # people and images of the contact sheet


class Trials(NamedTuple):
    """All pairs of test images: their positions, whether they show one person, and that person's number."""

    i: np.ndarray
    j: np.ndarray
    same: np.ndarray
    people: tuple[np.ndarray, np.ndarray]


def demo(
    out: Annotated[Path, typer.Argument(help="a folder for this demo only")] = Path("demo-faces"),
    seed: SeedOption = 1986,
) -> None:
    """Draw faces, train ArcFace, Q-Margin, KappaFace and adaptive Q-Margin on them, and compare losses and scores.

    It takes about four minutes on two idle CPU cores, and needs no checkout of arcface_torch. Run again with the same
    OUT after an interruption, it continues after the last whole epoch.
    """
    run(out, seed, CORPUS)


def run(output: Path, seed: int, corpus: dict[str, Any], **recipe: Any) -> dict[tuple[str, str], report.Result]:
    """The demo, with the sizes of the corpus (`make_corpus`) and values of the `Recipe`; results by loss and method."""
    from rich.console import Console

    from ..drawn_faces import training  # noqa: F401 (if it cannot be imported, nothing has been written yet)

    settings = {"seed": seed, "corpus": corpus, "recipe": recipe}
    with demo_folder(output, settings):
        return _run(output, settings, Console())


def _run(output: Path, settings: dict[str, Any], console: Console) -> dict[tuple[str, str], report.Result]:
    from ..drawn_faces.corpus import read_faces
    from ..drawn_faces.scoring import TAU
    from ..drawn_faces.training import LOSSES, one_process

    data = _draw(output / "faces", settings, console)
    train, test = (
        read_faces(data / part, partial(progress, title="reading", unit="image")) for part in ("train", "test")
    )
    _show(output / "faces.png", test)
    console.print(f"The faces of {len(test.names)} test people: {output / 'faces.png'}")
    trials = _all_pairs(test)
    results, warnings = {}, []
    for name, loss in LOSSES.items():
        finished = output / name / "scores.npz"
        if finished.exists():
            console.print(f"{loss.title}: trained and scored before, in {finished}")
        else:
            with one_process():
                _train_and_score(finished, name, train, test, trials, settings, console)
        scored = _scores(finished)
        if warning := density_spread(scored["cosine"], scored["ida-r"], TAU).warning:
            warnings.append(f"{loss.title}: {warning}")
        for method, scores in scored.items():
            shown = partial(progress, title=f"Intervals, {loss.title}, {METHODS[method]}")
            results[name, method] = report.evaluate(scores, trials.same, trials.people, True, progress=shown)
    _report(output, results, warnings, trials, settings, console)
    return results


def _draw(folder: Path, settings: dict[str, Any], console: Console) -> Path:
    from ..drawn_faces.corpus import make_corpus

    corpus = settings["corpus"]
    if folder.is_dir():
        console.print(f"Faces: drawn before, in {folder}")
        return folder
    people = corpus["train_people"] + corpus["test_people"]
    for _ in progress(make_corpus(folder, seed=settings["seed"], **corpus), "drawing", "person", total=people):
        pass
    return folder


def _show(path: Path, faces: Faces) -> None:
    import cv2

    from ..drawn_faces.corpus import contact_sheet

    columns = min(SHEET[1], int(np.bincount(faces.labels).max()))
    with whole(path) as hidden:
        cv2.imwrite(str(hidden), contact_sheet(faces, min(SHEET[0], len(faces.names)), columns)[..., ::-1])


def _all_pairs(faces: Faces) -> Trials:
    i, j = np.triu_indices(len(faces.labels), 1)
    people = faces.labels[i], faces.labels[j]
    return Trials(i, j, people[0] == people[1], people)


def _train_and_score(
    finished: Path, name: str, train: Faces, test: Faces, trials: Trials, settings: dict[str, Any], console: Console
) -> None:
    from ..drawn_faces.scoring import score
    from ..drawn_faces.training import LOSSES, Recipe, Run

    loss = LOSSES[name]
    training = Run(finished.parent, train, loss, Recipe(**settings["recipe"]), settings["seed"])
    done = training.resume()
    console.print(f"{loss.title}: " + (f"resumes after epoch {done}, from {training.path}" if done else "is trained"))

    def shown(steps: Iterable, title: str) -> Iterable:
        return progress(steps, title, "step")

    training.train(shown, loss.title)
    save_npz(finished, **score(training, test, trials.i, trials.j, shown))


def _scores(finished: Path) -> dict[str, np.ndarray]:
    saved, _ = read_arrays(finished, tuple(METHODS))
    if len(saved) < len(METHODS):
        raise ValueError(f"{finished} is damaged: remove it, and the demo makes it again")
    return {method: saved[method] for method in METHODS}


def _report(
    output: Path,
    results: dict[tuple[str, str], report.Result],
    warnings: list[str],
    trials: Trials,
    settings: dict[str, Any],
    console: Console,
) -> None:
    from ..drawn_faces.training import LOSSES

    corpus = settings["corpus"]
    fewest, most = corpus["images"]
    data = (
        f"Drawn faces: {corpus['train_people']} training people with {fewest} to {most} images each, "
        f"{corpus['test_people']} other people in the test, {trials.same.sum()} target and {(~trials.same).sum()} "
        f"non-target trials, seed {settings['seed']}."
    )
    rows = {f"{LOSSES[loss].title}, {METHODS[method]}": r.figures for (loss, method), r in results.items()}
    table = report.write_table(output, rows, report.note(corpus["test_people"], True))
    measured = [figure for figure in SHOWN if not np.isnan(next(iter(rows.values()))[figure].value)]
    short = [_by_loss(results, figure) for figure in measured]
    by_loss = {LOSSES[loss].title: r.curve for (loss, method), r in results.items() if method == "cosine"}
    by_method = {METHODS[method]: r.curve for (loss, method), r in results.items() if loss == "qmargin"}
    plots.det(output / "det_losses.png", by_loss, "drawn faces, cosine")
    plots.det(output / "det_scores.png", by_method, f"drawn faces, {LOSSES['qmargin'].title}")
    note = (
        "Made by `verimargin demo faces`. These are not results on real faces: compare the losses with each other only."
    )
    pictures = "![Faces](faces.png)\n\n![DET of the losses](det_losses.png)\n\n![DET of the scores](det_scores.png)"
    parts = [data, *warnings, *(report.markdown(head, lines) for head, lines in short), pictures, table, note]
    report.write_markdown(output, "verimargin demo faces", parts)
    for warning in warnings:
        console.print(warning)
    for head, lines in short:
        _print(console, head, lines)
    console.print(data)
    console.print(f"Report: {output / 'report.md'}, faces: {output / 'faces.png'}")


def _by_loss(results: dict[tuple[str, str], report.Result], figure: str) -> tuple[list[str], list[list[str]]]:
    """A table of one figure: a row for each loss, a column for each score."""
    from ..drawn_faces.training import LOSSES

    lines = [
        [loss.title, *(str(results[name, method].figures[figure]._replace(interval=None)) for method in METHODS)]
        for name, loss in LOSSES.items()
    ]
    return [figure, *METHODS.values()], lines


def _print(console: Console, head: list[str], lines: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(*head)
    for line in lines:
        table.add_row(*line)
    console.print(table)
