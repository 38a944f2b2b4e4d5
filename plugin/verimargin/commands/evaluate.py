"""`verimargin evaluate`: from a training run to a report, by the commands that embed, make anchors, fit and score."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from ..files.anchors import anchors_from_embeddings, anchors_from_prototypes, without
from ..files.calibrations import digest
from ..files.choice import choose
from ..files.embeddings import read_embeddings, write_embeddings
from ..files.trials import read_trials
from ..files.whole import whole
from .kept import Kept, kept
from .options import DeviceOption, FolderArgument, IntervalsOption, KOption, SeedOption, TauOption
from .score import score
from .train_ssr import train_ssr
from .training_run import ListedSet, TrainingRun, TrainingSet, open_run

TESTS, TRAINING, ANCHORS, REGRESSOR, LIST, REPORT = (
    "test.npz", "train.npz", "anchors.npz", "regressor.pt", "trials.txt", "report",
)  # fmt: skip


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="the output folder of a run of SpeechBrain or arcface_torch, or one CKPT+... in it")
    ],
    out: FolderArgument,
    trials: Annotated[Path, typer.Option(help="a list in the format of VoxCeleb or IJB, or a .bin of pairs of faces")],
    data: Annotated[
        Path | None,
        typer.Option(help="the folder of the test recordings or images", show_default="what the run's settings say"),
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="the folder of the training set", show_default="what the run's settings say")
    ] = None,
    per_identity: Annotated[
        int, typer.Option(min=0, help="how many random training samples of each identity to embed; 0 for all")
    ] = 5,
    identities: Annotated[
        int, typer.Option(min=0, help="how many random training identities to take; 0 for all")
    ] = 10_000,
    network: Annotated[
        str, typer.Option(help="the network of a model.pt, such as r50", show_default="what its training.log says")
    ] = "",
    k: KOption = 10,
    tau: TauOption = 1.0,
    intervals: IntervalsOption = True,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Score the TRIALS with the model of a training run, by all methods, and write the report to OUT/report.

    The test samples and a part of the training set are embedded; the anchors are the classifier's prototypes, or, if
    the run kept none, a training sample of each identity. All that is made is kept in OUT. The same command
    continues after an interruption, and makes again only what depends on a changed setting.
    """
    run = open_run(checkpoint, network)
    print(run.title, flush=True)
    tests = run.tests(trials, data)
    training, notes = _training(run, train)
    names = run.class_names(training)
    if shared := sorted(tests.identities & set(names)):
        notes.append(
            f"Identities of the trials ({len(shared)}, such as {shared[0]}) were trained on: the error rates are lower "
            "than those of strangers. They are left out of the cohort, the anchors and the regressor's embeddings."
        )
    with kept(out, run.encoder) as folder:
        listed = _list(folder, trials, tests)
        read_trials(listed.path, tests.ids)  # refuses a list before anything is embedded
        what = f"embeddings of {len(tests.ids):,} in {trials.name}"
        tested = _make(folder, TESTS, [listed.digest, tests.key], what, lambda path: tests.embed(path, device))
        cohort = None
        if training:
            chosen = _choose(training.labels, shared, per_identity, identities, seed)
            cohort = _cohort(folder, training, chosen, device)
        anchors = _anchors(folder, run, names, cohort, shared, seed, notes)
        regressor = _regressor(folder, cohort, anchors, k, tau, seed, device) if cohort and anchors else None
        parts = {"cohort": cohort, "anchors": anchors, "regressor": regressor}
        given = [part for part in parts.values() if part]
        for name in {LIST, TRAINING, ANCHORS, REGRESSOR} - {part.path.name for part in [listed, *given]}:
            folder.drop(name)

        def report(path: Path) -> None:
            files: dict[str, Any] = {name: part.path for name, part in parts.items() if part}
            settings: dict[str, Any] = {"k": k, "tau": f"{tau:g}"} if anchors else {}
            score(tested.path, listed.path, path, **settings, intervals=intervals, device=device, **files)

        key = [listed.digest, tested.digest, [part.digest for part in given], k, tau, intervals]
        reported = _make(folder, REPORT, key, "error rates and figures", report)
    for note in notes:
        print(note, flush=True)
    options = [text for name, part in parts.items() if part for text in (f"--{name}", str(part.path))]
    command = shlex.join(["verimargin", "score", str(tested.path), str(listed.path), "NEW", *options])
    print(f"The report is {reported.path / 'report.html'}. For thresholds, tau or a calibration: {command}")


class Part(NamedTuple):
    """A file or folder of OUT, and a digest of all that it was made from."""

    path: Path
    digest: str


def _make(folder: Kept, name: str, key: Any, what: str, make: Callable[[Path], None]) -> Part:
    return Part(folder.folder / name, folder.make(name, key, what, make))


def _training(run: TrainingRun, given: Path | None) -> tuple[TrainingSet | None, list[str]]:
    """The training set; without it, a note that says what cannot be scored."""
    try:
        return run.training(given), []
    except FileNotFoundError as error:
        if given:
            raise ValueError(str(error)) from error
        return None, [f"No s-norm and no IDA-L, which need training samples: {error}. Give their folder as --train."]


def _list(folder: Kept, trials: Path, tests: ListedSet) -> Part:
    """The list of the trials: the file that was given, or one that is made of it."""
    if not trials.is_file():
        raise ValueError(f"the trial list {trials} does not exist: give the path of a trial list")
    if not tests.list_text:
        return Part(trials, digest(trials))

    def write(path: Path) -> None:
        with whole(path) as partial:
            partial.write_text(tests.list_text, encoding="utf-8")

    return _make(folder, LIST, digest(trials), f"the pairs of {trials.name}", write)


def _choose(labels: np.ndarray, left_out: Sequence[str], per_identity: int, identities: int, seed: int) -> np.ndarray:
    """The positions of the training samples that are embedded: some of each of some random identities."""
    names = np.setdiff1d(np.unique(labels), list(left_out))
    if not len(names):
        raise ValueError("the trials are about all training identities: there are no others for cohort and anchors")
    if 0 < identities < len(names):
        names = np.random.default_rng(seed).choice(names, identities, replace=False)
    positions = choose(labels, per_identity, seed)
    return positions[np.isin(labels[positions], names)]


def _cohort(folder: Kept, training: TrainingSet, chosen: np.ndarray, device: str) -> Part:
    number = len(np.unique(training.labels[chosen]))
    what = f"cohort, {len(chosen):,} samples of {number:,} identities in {training.where}"
    return _make(
        folder, TRAINING, [training.key, chosen.tolist()], what, lambda path: training.embed(chosen, path, device)
    )


def _anchors(
    folder: Kept,
    run: TrainingRun,
    names: Sequence[str],
    cohort: Part | None,
    left_out: Sequence[str],
    seed: int,
    notes: list[str],
) -> Part | None:
    """The prototypes, or, if there are none, a training sample of each identity; None if there is neither."""

    def from_prototypes(path: Path) -> None:
        made = anchors_from_prototypes(run.prototypes, encoder=run.encoder)
        if len(names) > len(made.ids):
            raise ValueError(f"the training set has {len(names)} identities, but the head {len(made.ids)} prototypes")
        numbers = map(str, range(len(names), len(made.ids)))  # of classes without a sample
        write_embeddings(path, without(replace(made, ids=[*names, *numbers]), left_out))

    def from_samples(path: Path) -> None:
        given = read_embeddings(folder.folder / TRAINING)
        write_embeddings(path, anchors_from_embeddings(given.vectors, given.labels, seed, left_out, run.encoder))

    reason = run.no_prototypes
    if run.prototypes:
        files = [file.name for file in run.prototypes]
        key = ["prototypes", files, list(names), list(left_out)]
        try:
            return _make(folder, ANCHORS, key, f"anchors, the prototypes in {', '.join(files)}", from_prototypes)
        except ValueError as error:
            reason = str(error)
    if cohort:
        notes.append(f"The anchors are training samples, one of each identity, and no prototypes: {reason}.")
        what = "anchors, a training sample of each identity"
        return _make(folder, ANCHORS, ["samples", cohort.digest, seed], what, from_samples)
    notes.append(f"No IDA, which needs anchors: there is no training set, and there are no prototypes: {reason}.")
    return None


def _regressor(folder: Kept, cohort: Part, anchors: Part, k: int, tau: float, seed: int, device: str) -> Part:
    def fit(path: Path) -> None:
        train_ssr(cohort.path, anchors.path, path, k=k, tau=tau, seed=seed, device=device)

    key = [cohort.digest, anchors.digest, k, tau, seed]
    return _make(folder, REGRESSOR, key, "IDA-L's regressor", fit)
