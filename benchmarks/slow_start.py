"""How far the first two epochs of a loss get, 282 steps, from prototypes of two lengths.

    python benchmarks/speech.py corpora OUT    # if it has not been run
    python benchmarks/slow_start.py OUT

The small recipe is trained on the 1,000 speakers, from prototypes as SpeechBrain draws them, and from a tenth of
them. The figure is the share of the samples of the last 50 steps whose own prototype was the nearest.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from measurement import markdown
from speech import SMALL, Loss, title
from speech_grid import Corpus, training
from tqdm import tqdm
from verimargin.commands.comparison.losses import NamedLoss, read_loss

EPOCHS, LAST = 2, 50
STARTS = {"SpeechBrain's prototypes": 1.0, "a tenth of their length": 0.1}
LOSSES: list[tuple[str, Loss]] = [
    ("ArcFace", {"loss": "arcface", "scale": 10, "margin": 0.2}),
    ("ArcFace", {"loss": "arcface", "scale": 30, "margin": 0.2}),
    ("Q-Margin", {"loss": "q_margin", "alpha": 1.25, "scale": 16, "margin": 0.2}),
    ("Q-Margin", {"loss": "q_margin", "alpha": 1.5, "scale": 10, "margin": 0.2}),
]


def nearest(corpus: Corpus, loss: NamedLoss, length: float, seed: int = 0) -> float:
    """The share of the samples of the last steps that were nearest to the prototype of their class."""
    torch.manual_seed(seed)
    steps = -(-len(corpus.label) // corpus.settings["batch_size"])
    recipe = corpus.recipe(seed=seed, number_of_epochs=EPOCHS, steps_per_epoch=steps)
    weight = recipe["classifier"].weight
    with torch.no_grad():
        torch.nn.init.xavier_uniform_(weight).mul_(length)
    shown = tqdm(training(corpus, recipe, loss, EPOCHS), loss.title, EPOCHS * steps, unit="step", leave=False)
    hits = [(cosine.argmax(1) == label).float().mean() for cosine, label in shown]
    return float(torch.stack(hits[-LAST:]).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="that of `speech.py corpora`")
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus = Corpus(options.out / "development", SMALL)
    losses = [read_loss(title(*named), named[1]) for named in LOSSES]
    rows = [
        [loss.title, *(f"{100 * nearest(corpus, loss, length):.0f} %" for length in STARTS.values())] for loss in losses
    ]
    print(markdown(["loss", *STARTS], rows))


if __name__ == "__main__":
    main()
