"""Trains and scores one recipe on a folder laid out like VoxCeleb, without a checkout of SpeechBrain.

It is used by `verimargin demo` and by tests. The recipes are `hparams/speechbrain/train_ecapa_small*.yaml`, which
SpeechBrain's own script runs as well. An interrupted run can be resumed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.encoder import CategoricalEncoder
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from verimargin.files import hparams as recipes
from verimargin.files.whole import whole

from .corpus import Trial, read_trials, recordings, speaker_of, speakers
from .overrides import as_yaml

RECIPE = "train_ecapa_small.yaml"
Begins = Callable[[int, "Path | None"], None]
Steps = Callable[..., Iterable]


class Utterances(Dataset):
    """Each recording, cut at random to `size` samples, with its name and speaker id, named as in the recipes."""

    def __init__(self, wav: Path, names: list[str], speaker_ids: dict[str, int], size: int):
        self.wav, self.names, self.speaker_ids, self.size = wav, names, speaker_ids, size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        samples = read_wav(self.wav / name)
        if len(samples) < self.size:
            raise ValueError(
                f"{self.wav / name} has {len(samples)} samples: training cuts {self.size} from each recording"
            )
        start = random.randint(0, len(samples) - self.size)
        speaker = torch.tensor([self.speaker_ids[speaker_of(name)]])
        return {"id": name, "sig": samples[start : start + self.size], "spk_id_encoded": speaker}


class SpeakerBrain(sb.Brain):
    """Training with the features, embedding model, classifier and cost that the recipe names.

    Attributes:
        step_seconds: CPU time, of the last epoch that this process has trained.
        begins: called with the number of finished epochs and the checkpoint, if there is one.
        steps: wraps the batches of an epoch, with a title, as tqdm does.
    """

    step_seconds = math.nan

    def __init__(self, *args: Any, begins: Begins, steps: Steps, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.begins, self.steps = begins, steps

    def on_fit_start(self) -> None:
        super().on_fit_start()
        checkpoint = self.checkpointer.find_checkpoint()
        self.begins(self.hparams.epoch_counter.current, checkpoint and checkpoint.path)

    def _fit_train(self, train_set: Iterable, epoch: int, enable: bool) -> None:
        title = f"epoch {epoch} of {self.hparams.epoch_counter.limit}"
        super()._fit_train(self.steps(train_set, title=title), epoch, enable)

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> Tensor:
        samples, lengths = batch.to(self.device).sig
        features = self.modules.mean_var_norm(self.modules.compute_features(samples), lengths)
        return self.modules.classifier(self.modules.embedding_model(features))

    def compute_objectives(self, predictions: Tensor, batch: PaddedBatch, stage: sb.Stage) -> Tensor:
        ids = batch.spk_id_encoded.data
        if stage == sb.Stage.TRAIN:
            self.hparams.lr_annealing.on_batch_end(self.optimizer)
        else:
            self.wrong += int((predictions.squeeze(1).argmax(1) != ids.squeeze(1)).sum())
            self.seen += len(ids)
        return self.hparams.compute_cost(predictions, ids)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        self.wrong = self.seen = 0
        self.began = time.process_time()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            self.step_seconds = (time.process_time() - self.began) / max(self.step, 1)
            return
        self.hparams.train_logger.log_stats(
            {"epoch": epoch}, {"loss": self.train_loss}, {"loss": stage_loss, "error": self.wrong / max(self.seen, 1)}
        )
        self.checkpointer.save_and_keep_only(meta={"epoch": epoch})


def train(
    data: Path,
    output: Path,
    cost: str,
    seed: int,
    *,
    recipe: str = RECIPE,
    begins: Begins = lambda epochs, checkpoint: None,
    steps: Steps = lambda batches, title: batches,
    **overrides: Any,
) -> SpeakerBrain:
    """Train a recipe with one of its `costs`, or continue an interrupted run.

    Args:
        data: a folder laid out like VoxCeleb with a `veri_test.txt`, whose speakers are left out of training.
        output: the folder of the run.
        recipe: a file of hparams/speechbrain.
        begins, steps: as for `SpeakerBrain`.
        overrides: further keys of the recipe, e.g. ``number_of_epochs=2``.
    """
    tested = recordings(read_trials(data / "veri_test.txt"))
    people = speakers(data, map(speaker_of, tested))
    training, validation = split(data, people)
    values = {"data_folder": data, "output_folder": output, "seed": seed, "out_n_neurons": len(people), **overrides}
    values["compute_cost"] = f"!ref <costs[{cost}]>"
    text = recipes.path(f"speechbrain/{recipe}").read_text(encoding="utf-8")
    batch_size = overrides.get("batch_size") or load_hyperpyyaml(text, as_yaml(values))["batch_size"]
    if len(training) % batch_size == 1:
        training.pop()  # batch normalisation cannot train on one sample
    values["steps_per_epoch"] = -(-len(training) // batch_size)
    hparams = load_hyperpyyaml(text, as_yaml(values))
    ids = {name: number for number, name in enumerate(people)}
    _annotate(Path(hparams["save_folder"]), training, ids)
    brain = SpeakerBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        {"device": "cpu", "noprogressbar": True},
        hparams["checkpointer"],
        begins=begins,
        steps=steps,
    )
    size = int(hparams["sentence_len"] * hparams["sample_rate"])
    sets = [Utterances(data / "wav", names, ids, size) for names in (training, validation)]
    train_options = {"collate_fn": PaddedBatch, **hparams["dataloader_options"]}
    valid_options = {"collate_fn": PaddedBatch, "batch_size": 32}
    brain.fit(hparams["epoch_counter"], *sets, train_loader_kwargs=train_options, valid_loader_kwargs=valid_options)
    return brain


def _annotate(save_folder: Path, training: list[str], ids: dict[str, int]) -> None:
    """Write the two files about the training set that SpeechBrain's script would write, for `TrainingSamples`."""
    save_folder.mkdir(parents=True, exist_ok=True)
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(ids)
    with whole(save_folder / "label_encoder.txt") as partial:
        encoder.save(partial)
    with whole(save_folder / "train.csv") as partial:
        rows = [f"{name},{speaker_of(name)}" for name in training]
        partial.write_text("\n".join(["ID,spk_id", *rows]) + "\n", encoding="utf-8")


@torch.no_grad()
def embed(brain: SpeakerBrain, data: Path, names: Iterable[str], size: int | None = None) -> Tensor:
    """The embeddings (N, d) of recordings of `data`, each as a whole, or its first `size` samples, and by itself."""
    brain.modules.eval()
    return torch.stack([_embed(brain, read_wav(data / "wav" / name)[:size]) for name in names])


def score(brain: SpeakerBrain, data: Path) -> tuple[np.ndarray, list[Trial]]:
    """The cosines of the trials, and the trials. Each recording is embedded as a whole and by itself."""
    trials = read_trials(data / "veri_test.txt")
    names = recordings(trials)
    unit = F.normalize(embed(brain, data, names))
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


def split(data: Path, people: list[str]) -> tuple[list[str], list[str]]:
    """The recordings for training and for validation, which gets every tenth one."""
    wav = data / "wav"
    names = [path.relative_to(wav).as_posix() for who in people for path in sorted((wav / who).glob("*/*.wav"))]
    return [name for i, name in enumerate(names) if i % 10 != 9], names[9::10]
