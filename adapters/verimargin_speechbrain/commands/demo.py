"""`verimargin demo speech`: four losses with the same recipe, on a small corpus that the demo makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from verimargin._processes import Send, cpus
from verimargin.commands.demo_folder import demo_folder
from verimargin.commands.demo_report import Results, write
from verimargin.commands.demo_scores import Trials, four_scores, save_run, step_cost
from verimargin.commands.demo_training import how_it_begins, sending, train_losses
from verimargin.commands.options import SeedOption
from verimargin.commands.progress import progress

from . import demo_content

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ..experiment import SpeakerBrain


class Loss(NamedTuple):
    """One of the `costs` of a recipe, with further values of it."""

    title: str
    cost: str
    recipe: str = "train_ecapa_small.yaml"
    values: dict[str, Any] = {}


KAPPAFACE = "train_ecapa_small_kappaface.yaml", {"estimator": "memory"}
LOSSES = {
    "arcface": Loss("ArcFace (s 30, m 0.2)", "arcface"),
    "qmargin": Loss("Q-Margin (alpha 1.25, s 10, m 0.2)", "qmargin"),
    "kappaface": Loss("KappaFace (s 30, m0 0.4)", "kappaface", *KAPPAFACE),
    "adaptive": Loss("adaptive Q-Margin (alpha 1.25, s 10, m0 0.4)", "qmargin", *KAPPAFACE),
}
CORPUS = {"train_speakers": 72, "test_speakers": 120, "utterances": 12, "test_utterances": 5}
RECIPE = {"number_of_epochs": 10, "channels": 64, "emb_dim": 64, "sentence_len": 1.0, "lr": 0.004}


def demo(
    out: Annotated[Path, typer.Argument(help="a folder for this demo only")] = Path("demo"), seed: SeedOption = 1986
) -> None:
    """Make a small speech corpus, train ArcFace, Q-Margin, KappaFace and adaptive Q-Margin, compare losses and scores.

    It takes about four minutes on two idle CPU cores. Run again with the same OUT after an interruption, it continues
    after the last whole epoch.
    """
    run(out, seed, CORPUS, **RECIPE)


def run(output: Path, seed: int, corpus: dict[str, int], **recipe: Any) -> Results:
    """The demo, with the sizes of the corpus (`synthesis.make_corpus`) and further values of the recipe."""
    from rich.console import Console

    from .. import experiment, synthesis  # noqa: F401 (if one cannot be imported, nothing has been written yet)

    settings = {"seed": seed, "corpus": corpus, "recipe": recipe}
    with demo_folder(output, settings):
        return _run(output, settings, Console())


def _run(output: Path, settings: dict[str, Any], console: Console) -> Results:
    data = output / "corpus"
    _synthesise(data, settings, console)
    titles = {name: loss.title for name, loss in LOSSES.items()}
    runs = train_losses(_train_and_score, titles, data, output, settings, console)
    trials = _trials(data)
    return write(output, runs, trials, demo_content.content(output, runs, trials, settings), console)


def _synthesise(data: Path, settings: dict[str, Any], console: Console) -> None:
    from ..synthesis import make_corpus

    corpus = settings["corpus"]
    if data.is_dir():
        console.print(f"Speech: synthesised before, in {data}")
        return
    people = corpus["train_speakers"] + corpus["test_speakers"]
    console.print(f"Synthesising {people} speakers with eSpeak NG, on {cpus()} CPUs")
    made = make_corpus(data, seed=settings["seed"], **corpus)
    for _ in progress(made, "synthesising", "speaker", total=people):
        pass


def _trials(data: Path) -> Trials:
    from ..corpus import read_trials, recordings, speaker_of

    samples = recordings(read_trials(data / "veri_test.txt"))
    names, labels = np.unique([speaker_of(name) for name in samples], return_inverse=True)
    return Trials.all_pairs(labels, samples, names.tolist())


def _train_and_score(name: str, data: Path, output: Path, settings: dict[str, Any], send: Send) -> None:
    import torch

    from .. import experiment
    from ..corpus import read_trials, recordings, speaker_of, speakers

    loss, seed, steps = LOSSES[name], settings["seed"], sending(send)
    brain = experiment.train(
        data,
        output,
        loss.cost,
        seed,
        recipe=loss.recipe,
        begins=lambda *done: send(how_it_begins(*done)),
        steps=steps,
        **loss.values,
        **settings["recipe"],
    )
    tested = recordings(read_trials(data / "veri_test.txt"))
    people = speakers(data, map(speaker_of, tested))
    known, _ = experiment.split(data, people)
    size = int(brain.hparams.sentence_len * brain.hparams.sample_rate)
    f = experiment.embed(brain, data, steps(tested, title="embedding the test speakers"))
    trained = experiment.embed(brain, data, steps(known, title="embedding the training speakers"), size)
    labels = torch.tensor([people.index(speaker_of(recording)) for recording in known])
    scores = four_scores(brain.modules.classifier.weight.detach(), trained, labels, f, seed, steps)
    save_run(output / "scores.npz", scores, brain.step_seconds, _cost(brain))


def _cost(brain: SpeakerBrain) -> Any:
    """What the classifier and the loss take, on random embeddings; without what KappaFace takes to follow training."""
    import torch

    brain.modules.eval()
    classifier, cost, batch = brain.modules.classifier, brain.hparams.compute_cost, brain.hparams.batch_size
    embeddings = torch.randn(batch, 1, brain.hparams.emb_dim, requires_grad=True)
    labels = torch.randint(brain.hparams.out_n_neurons, (batch, 1))

    def loss() -> Tensor:
        return cost(classifier(embeddings), labels)

    return step_cost(loss, classifier.parameters())
