"""Trains and scores one recipe on a folder laid out like VoxCeleb, without a checkout of SpeechBrain.

It is used by `verimargin demo` and by tests. The recipe is `hparams/speechbrain/train_ecapa_small.yaml`, which
SpeechBrain's own script runs as well. An interrupted run can be resumed.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from verimargin.files import hparams as recipes

from .corpus import Trial, read_trials, recordings, speaker_of, speakers
from .overrides import as_yaml

RECIPE = "train_ecapa_small.yaml"


class Utterances(Dataset):
    """The samples of each recording, cut at random to `size` samples, and its speaker id."""

    def __init__(self, wav: Path, names: list[str], speaker_ids: dict[str, int], size: int):
        self.wav, self.names, self.speaker_ids, self.size = wav, names, speaker_ids, size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name = self.names[index]
        samples = read_wav(self.wav / name)
        if len(samples) < self.size:
            raise ValueError(
                f"{self.wav / name} has {len(samples)} samples: training cuts {self.size} from each recording"
            )
        start = random.randint(0, len(samples) - self.size)
        return samples[start : start + self.size], torch.tensor([self.speaker_ids[speaker_of(name)]])


class SpeakerBrain(sb.Brain):
    """Training with the features, embedding model, classifier and cost that the recipe names."""

    step_seconds = math.nan  # of the last epoch that this process has trained

    def compute_forward(self, batch: tuple[Tensor, Tensor], stage: sb.Stage) -> Tensor:
        samples, _ = (part.to(self.device) for part in batch)
        lengths = torch.ones(len(samples), device=self.device)
        features = self.modules.mean_var_norm(self.modules.compute_features(samples), lengths)
        return self.modules.classifier(self.modules.embedding_model(features))

    def compute_objectives(self, predictions: Tensor, batch: tuple[Tensor, Tensor], stage: sb.Stage) -> Tensor:
        ids = batch[1].to(self.device)
        if stage == sb.Stage.TRAIN:
            self.hparams.lr_annealing.on_batch_end(self.optimizer)
        else:
            self.wrong += int((predictions.squeeze(1).argmax(1) != ids.squeeze(1)).sum())
            self.seen += len(ids)
        return self.hparams.compute_cost(predictions, ids)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        self.wrong = self.seen = 0
        self.began = time.perf_counter()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            self.step_seconds = (time.perf_counter() - self.began) / max(self.step, 1)
            return
        self.hparams.train_logger.log_stats(
            {"epoch": epoch}, {"loss": self.train_loss}, {"loss": stage_loss, "error": self.wrong / max(self.seen, 1)}
        )
        self.checkpointer.save_and_keep_only(meta={"epoch": epoch})


def train(data: Path, output: Path, cost: str, seed: int, progress: bool = True, **overrides: Any) -> SpeakerBrain:
    """Train the recipe with one of its costs ("qmargin", "arcface", "cosface"), or continue an interrupted run.

    Args:
        data: a folder laid out like VoxCeleb with a `veri_test.txt`, whose speakers are left out of training.
        output: the folder of the run.
        overrides: further keys of the recipe, e.g. ``number_of_epochs=2``.
    """
    tested = recordings(read_trials(data / "veri_test.txt"))
    people = speakers(data, map(speaker_of, tested))
    training, validation = _split(data, people)
    values = {"data_folder": data, "output_folder": output, "seed": seed, "out_n_neurons": len(people), **overrides}
    values["compute_cost"] = f"!ref <costs[{cost}]>"
    recipe = recipes.path(f"speechbrain/{RECIPE}").read_text(encoding="utf-8")
    batch_size = overrides.get("batch_size") or load_hyperpyyaml(recipe, as_yaml(values))["batch_size"]
    if len(training) % batch_size == 1:
        training.pop()  # batch normalisation cannot train on one sample
    values["steps_per_epoch"] = -(-len(training) // batch_size)
    hparams = load_hyperpyyaml(recipe, as_yaml(values))
    brain = SpeakerBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        {"device": "cpu", "noprogressbar": not progress},
        hparams["checkpointer"],
    )
    ids = {name: number for number, name in enumerate(people)}
    size = int(hparams["sentence_len"] * hparams["sample_rate"])
    sets = [Utterances(data / "wav", names, ids, size) for names in (training, validation)]
    options = hparams["dataloader_options"]
    brain.fit(hparams["epoch_counter"], *sets, train_loader_kwargs=options, valid_loader_kwargs={"batch_size": 32})
    return brain


class Cost(NamedTuple):
    """What the classifier and the loss take of one training step."""

    seconds: float  # forwards and backwards
    kept: int  # bytes that the forward pass keeps for the backward pass


def cost_of_loss(brain: SpeakerBrain, batch: int = 32, repeats: int = 20) -> Cost:
    """Measure the classifier and the loss alone, on random embeddings; the time is the median of the repeats."""
    classifier, cost = brain.modules.classifier, brain.hparams.compute_cost
    weights = {parameter.data_ptr() for parameter in classifier.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeddings = torch.randn(batch, 1, brain.hparams.emb_dim, requires_grad=True)
    labels = torch.randint(brain.hparams.out_n_neurons, (batch, 1))
    seconds = []
    for _ in range(repeats):
        kept.clear()
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = cost(classifier(embeddings), labels)
        size = sum(kept.values())
        loss.backward()
        seconds.append(time.perf_counter() - began)
    classifier.zero_grad()
    return Cost(statistics.median(seconds), size)


def score(brain: SpeakerBrain, data: Path) -> tuple[np.ndarray, list[Trial]]:
    """The cosines of the trials, and the trials. Each recording is embedded as a whole and by itself."""
    trials = read_trials(data / "veri_test.txt")
    names = recordings(trials)
    brain.modules.eval()
    with torch.no_grad():
        rows = [_embed(brain, read_wav(data / "wav" / name)) for name in names]
    unit = F.normalize(torch.stack(rows))
    place = {name: i for i, name in enumerate(names)}
    enrol, test = [place[trial.enrol] for trial in trials], [place[trial.test] for trial in trials]
    return (unit[enrol] * unit[test]).sum(1).numpy(), trials


def read_wav(path: Path) -> Tensor:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the trial list or the folder has changed; give both as they were")
    try:
        return torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is no recording that can be read: {error}") from error


def _embed(brain: SpeakerBrain, samples: Tensor) -> Tensor:
    features = brain.modules.compute_features(samples[None])
    return brain.modules.embedding_model(brain.modules.mean_var_norm(features, torch.ones(1)))[0, 0]


def _split(data: Path, people: list[str]) -> tuple[list[str], list[str]]:
    """The recordings for training and for validation, which gets every tenth one."""
    wav = data / "wav"
    names = [path.relative_to(wav).as_posix() for who in people for path in sorted((wav / who).glob("*/*.wav"))]
    return [name for i, name in enumerate(names) if i % 10 != 9], names[9::10]
