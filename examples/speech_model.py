"""A small speaker encoder to try, with all that its scores need: `make model` writes it to model/speech_model.zip.

    python examples/speech_model.py OUT

eSpeak NG speaks for 1,000 training speakers and 500 others, those of benchmarks/speech.py; the small ECAPA-TDNN of
`train_ecapa_small.yaml` is trained with Q-Margin. OUT/speech_model then has the encoder, as SpeechBrain's
`SpeakerRecognition` and `verimargin embed-speech` load it, the anchors, the cohort and the regressor of `verimargin
score`, a calibration with thresholds, fitted to 200 of the other speakers, and trials of the last 100. After an
interruption, the same command continues.

The speakers are synthetic: it is a model to try the commands with, not one to recognise people by.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from verimargin.commands.calibrate import calibrate
from verimargin.commands.train_ssr import train_ssr
from verimargin.files.anchors import anchors_from_prototypes
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.files.whole import whole, whole_folder
from verimargin_speechbrain import experiment
from verimargin_speechbrain.corpus import MODEL, speaker_of, speakers, write_trials
from verimargin_speechbrain.experiment import SpeakerBrain
from verimargin_speechbrain.synthesis import RATE, SECONDS, make_corpus

NAME = "speech_model"
SEED = 1
DEVELOPMENT, TESTED = 200, 100  # speakers of the calibration, and of the trials that come with the model
CORPUS = {"train_speakers": 1000, "test_speakers": 500, "utterances": 10, "test_utterances": 5}
COST = {"qmargin": {"alpha": 1.125, "scale": 10, "margin": 0.2}}  # as chosen by benchmarks/speech.py
RECIPE = {
    "number_of_epochs": 8,
    "costs": COST,
    "channels": 64,
    "emb_dim": 64,
    "sentence_len": 1.0,
    "lr": 0.004,
    "batch_size": 64,
}
FOR_REGRESSOR = 5  # recordings of each training speaker
TO_LISTEN = 6  # speakers whose recordings come with the model

HYPERPARAMS = """\
# An ECAPA-TDNN for 16 kHz recordings of synthetic speakers, by examples/speech_model.py of verimargin.
data_folder: {name} # of $data_root in recordings.csv
sample_rate: {rate}
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: {n_mels}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: {n_mels}
    channels: [{channels}, {channels}, {channels}, {channels}, {widest}]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 64
    se_channels: 64
    lin_neurons: {emb_dim}
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization # asked for by SpeakerRecognition, not used
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
"""

README = """\
# A small speaker encoder to try

Trained by examples/speech_model.py of verimargin on synthetic speech (eSpeak NG): a model to try the commands with, not
one to recognise people by. Unzip it, and in the folder above it:

    verimargin score {name}/test.npz {name}/trials.txt report --cohort {name}/cohort.npz --anchors {name}/anchors.npz \\
        --regressor {name}/regressor.pt --calibration {name}/calibration.json --far 1e-3

report/report.html compares cosine, s-norm and IDA on {trials:,} trials of {tested} speakers, with calibrated scores,
and with the threshold for a false accept rate of 1e-3 that was found on {development} other speakers.

Recordings of your own, 16 kHz, one channel, as lines of a table such as recordings.csv, which lists those in wav/:

    verimargin embed-speech {name}/hyperparams.yaml {name}/recordings.csv mine.npz

In Python, with SpeechBrain, by the cosine:

    from speechbrain.inference.speaker import SpeakerRecognition
    model = SpeakerRecognition.from_hparams("{name}")
    score, same = model.verify_files("{one}", "{other}")
"""


def make_model(out: Path, corpus: dict[str, int], recipe: dict[str, Any]) -> Path:
    """Write OUT/speech_model and OUT/speech_model.zip, and return the latter; what is there is not made again."""
    data, folder, release = out / "corpus", out / NAME, out / f"{NAME}.zip"
    if not data.is_dir():
        people = corpus["train_speakers"] + corpus["test_speakers"]
        for _ in tqdm(make_corpus(data, seed=SEED, **corpus), "speaking", people, unit="speaker"):
            pass
    if not folder.is_dir():
        brain = experiment.train(data, out / "training", "qmargin", SEED, steps=bar, **recipe)
        with whole_folder(folder) as partial:
            fill(partial, out, data, brain, corpus["train_speakers"])
    with whole(release) as path:
        pack(folder, path)
    return release


def bar(batches: Iterable, title: str) -> Iterable:
    return tqdm(batches, title, unit="batch", leave=False)


def fill(folder: Path, out: Path, data: Path, brain: SpeakerBrain, trained: int) -> None:
    """Everything that the folder of the model holds."""
    people = speakers(data)
    training, others = people[:trained], people[trained:]
    development, tested = others[:DEVELOPMENT], others[-TESTED:]
    torch.save(brain.modules.embedding_model.state_dict(), folder / MODEL)
    encoder = fingerprint(folder / MODEL)
    (folder / "hyperparams.yaml").write_text(hyperparams(brain), encoding="utf-8")

    torch.save(brain.modules.classifier.state_dict(), out / "classifier.ckpt")
    write_embeddings(folder / "anchors.npz", anchors_from_prototypes([out / "classifier.ckpt"], training, (), encoder))
    scratch = out / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()

    def embedded(path: Path, names: Sequence[str]) -> Path:
        vectors = experiment.embed(brain, data, tqdm(names, f"embedding for {path.name}", unit="recording"))
        write_embeddings(path, Embeddings(list(names), vectors, [speaker_of(name) for name in names], encoder))
        return path

    embedded(folder / "cohort.npz", recordings_of(data, training, 1))
    for_regressor = embedded(scratch / "training.npz", recordings_of(data, training, FOR_REGRESSOR))
    train_ssr(for_regressor, folder / "anchors.npz", folder / "regressor.pt")
    files = {
        name: folder / f"{name}{end}" for name, end in (("cohort", ".npz"), ("anchors", ".npz"), ("regressor", ".pt"))
    }
    pairs = scratch / "development.txt"
    write_trials(pairs, itertools.combinations(recordings_of(data, development), 2))
    calibrate(
        embedded(scratch / "development.npz", recordings_of(data, development)),
        pairs,
        folder / "calibration.json",
        **files,
    )

    names = recordings_of(data, tested)
    embedded(folder / "test.npz", names)
    write_trials(folder / "trials.txt", itertools.combinations(names, 2))
    heard = recordings_of(data, tested[:TO_LISTEN], 2)
    for name in heard:
        (folder / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "wav" / name, folder / "wav" / name)
    rows = [f"{name},$data_root/wav/{name},0,{round(SECONDS * RATE)},{speaker_of(name)}" for name in heard]
    (folder / "recordings.csv").write_text("\n".join(["ID,wav,start,stop,spk_id", *rows, ""]), encoding="utf-8")
    text = README.format(
        name=NAME,
        trials=len(names) * (len(names) - 1) // 2,
        tested=len(tested),
        development=len(development),
        one=f"{NAME}/wav/{heard[0]}",
        other=f"{NAME}/wav/{heard[1]}",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    shutil.rmtree(scratch)


def hyperparams(brain: SpeakerBrain) -> str:
    h = brain.hparams
    sizes = {name: getattr(h, name) for name in ("n_mels", "channels", "emb_dim")}
    return HYPERPARAMS.format(name=NAME, rate=h.sample_rate, widest=3 * h.channels, **sizes)


def recordings_of(data: Path, people: Iterable[str], most: int | None = None) -> list[str]:
    """Their recordings, or the first `most` of each, relative to `wav`."""
    wav = data / "wav"
    found = [sorted((wav / who).glob("*/*.wav"))[:most] for who in people]
    return [path.relative_to(wav).as_posix() for paths in found for path in paths]


def pack(folder: Path, path: Path) -> None:
    """A zip file that depends on the content of the folder alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{NAME}/{file.relative_to(folder).as_posix()}")  # of 1980
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for this only")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    release = make_model(out, CORPUS, RECIPE)
    print(f"{release}: {release.stat().st_size / 1e6:.1f} MB. {out / NAME / 'README.md'} says how to use it.")


if __name__ == "__main__":
    main()
