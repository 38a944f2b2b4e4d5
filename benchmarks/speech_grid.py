"""The trainings of `speech.py grid`: the small recipe in one process, on features that are computed once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from verimargin import metrics
from verimargin.commands.comparison.losses import NamedLoss
from verimargin.files import hparams as recipes
from verimargin_speechbrain.corpus import read_trials, recordings, speaker_of, speakers
from verimargin_speechbrain.experiment import read_wav, split
from verimargin_speechbrain.overrides import as_yaml

FRAMES = 101  # of one second
AT_ONCE = 50  # recordings
FAR = 1e-3


class Corpus:
    """The features of all recordings of a corpus, (N, frames, n_mels); all must be equally long."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self.settings = folder, settings
        tested = recordings(read_trials(folder / "veri_test.txt"))
        self.people = speakers(folder, map(speaker_of, tested))
        trained, _ = split(folder, self.people)
        place = {name: n for n, name in enumerate(self.people)}
        self.label = torch.tensor([place[speaker_of(name)] for name in trained])
        self.tested_label = np.unique([speaker_of(name) for name in tested], return_inverse=True)[1]
        compute = self.recipe(steps_per_epoch=1)["compute_features"]
        self.trained, self.tested = (self._features(compute, names) for names in (trained, tested))

    def recipe(self, **values: Any) -> dict[str, Any]:
        """The loaded recipe, with new weights."""
        text = recipes.path("speechbrain/train_ecapa_small.yaml").read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            given = {"data_folder": self.folder, "output_folder": scratch, "out_n_neurons": len(self.people)}
            return load_hyperpyyaml(text, as_yaml({**given, **self.settings, **values}))

    def batches(self, size: int, epochs: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Random seconds of the training recordings, each of which is taken once in an epoch, and their labels."""
        last = self.trained.shape[1] - FRAMES
        for _ in range(epochs):
            for rows in torch.randperm(len(self.label), generator=generator).split(size):
                start = torch.randint(last + 1, (len(rows), 1), generator=generator)
                pieces = self.trained[rows[:, None], start + torch.arange(FRAMES)]
                yield pieces.float(), self.label[rows]

    @torch.no_grad()
    def _features(self, compute: torch.nn.Module, names: list[str]) -> Tensor:
        parts = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
        shown = tqdm(parts, "features", unit=f"{AT_ONCE} recordings")
        waves = (torch.stack([read_wav(self.folder / "wav" / name) for name in part]) for part in shown)
        return torch.cat([compute(wave).half() for wave in waves])


def development_figure(corpus: Corpus, loss: NamedLoss, epochs: int, seed: int) -> float:
    """Train the small recipe with a loss, and return the TAR of the development speakers at FAR 1e-3, by cosine."""
    torch.manual_seed(seed)
    steps = epochs * -(-len(corpus.label) // corpus.settings["batch_size"])
    recipe = corpus.recipe(seed=seed, number_of_epochs=epochs, steps_per_epoch=steps // epochs)
    for _ in tqdm(training(corpus, recipe, loss, epochs), loss.title, steps, unit="step", leave=False):
        pass
    normalise, model = recipe["mean_var_norm"], recipe["embedding_model"].eval()
    unit = torch.cat([embedded(model, normalise, part) for part in corpus.tested.split(AT_ONCE)])
    enrol, test = np.triu_indices(len(unit), 1)
    score, same = (unit @ unit.T).numpy()[enrol, test], corpus.tested_label[enrol] == corpus.tested_label[test]
    return metrics.tar_at_far(score[same], score[~same], far=FAR)[0]


def training(corpus: Corpus, recipe: dict[str, Any], loss: NamedLoss, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Train the recipe's networks with a loss; the cosines (B, C) and labels (B,) of each step."""
    normalise, model, classifier = (recipe[n] for n in ("mean_var_norm", "embedding_model", "classifier"))
    cost = loss.build()
    optimizer = recipe["opt_class"]([*model.parameters(), *classifier.parameters()])
    generator = torch.Generator().manual_seed(recipe["seed"])
    for pieces, label in corpus.batches(corpus.settings["batch_size"], epochs, generator):
        optimizer.zero_grad()
        cosine = classifier(model(normalise(pieces, torch.ones(len(pieces))))).squeeze(1)
        cost(cosine, label).backward()
        optimizer.step()
        recipe["lr_annealing"].on_batch_end(optimizer)
        yield cosine.detach(), label


@torch.no_grad()
def embedded(model: torch.nn.Module, normalise: torch.nn.Module, features: Tensor) -> Tensor:
    return F.normalize(model(normalise(features.float(), torch.ones(len(features)))).squeeze(1))
