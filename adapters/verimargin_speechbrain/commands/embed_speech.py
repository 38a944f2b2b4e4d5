"""`verimargin embed-speech`: a file of embeddings for the other commands, from the model of a verification recipe."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from verimargin._checks import check_norms
from verimargin.commands.options import DeviceOption, SeedOption
from verimargin.commands.output import new_output
from verimargin.commands.progress import progress
from verimargin.files.choice import choose
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import fingerprint
from verimargin.files.reading import read_text
from verimargin.files.whole import check_room, naming

from ..overrides import as_yaml

COLUMNS = ("ID", "wav", "start", "stop", "spk_id")


@new_output(".npz")
def embed_speech(
    recipe: Annotated[Path, typer.Argument(help="a verification YAML, such as verification_ecapa.yaml")],
    annotations: Annotated[
        list[Path],
        typer.Argument(help="train.csv, or enrol.csv and test.csv, with the columns ID, wav, start, stop and spk_id"),
    ],
    out: Annotated[Path, typer.Argument(help="a new .npz for the ids, labels, seconds and embeddings")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="set KEY=VALUE in the recipe, such as pretrain_path=results/...")
    ] = None,
    per_speaker: Annotated[int, typer.Option(help="how many random recordings to take of each speaker; 0 for all")] = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Embed the recordings of the ANNOTATIONS, one at a time, with the features and the model of a verification RECIPE.

    OUT is meant for `verimargin anchors real`, `train-ssr` and `score`. After an interruption, the same command
    continues where it stopped.
    """
    rows = read_recordings(annotations)
    rows = [rows[n] for n in choose([row["spk_id"] for row in rows], per_speaker, seed)]
    hparams = load(recipe, overrides or [], device)
    encoder = fingerprint(hparams["embedding_model"])
    ids = [row["ID"] for row in rows]
    settings = [encoder, read_text(recipe), *(overrides or [])]
    work = hashlib.sha256(json.dumps([settings, rows]).encode()).hexdigest()[:12]  # all that an embedding depends on
    vectors = _resumable(rows, hparams, device, out.with_suffix(f".{work}.partial"))
    labels = [row["spk_id"] for row in rows]
    rate = _sample_rate(hparams)
    sizes = np.array([int(row["stop"]) - int(row["start"]) for row in rows]) / rate if rate else None
    source = {"recipe": recipe.name}
    write_embeddings(out, Embeddings(ids, torch.from_numpy(vectors), labels, encoder, source, sizes))
    print(f"wrote {len(rows)} embeddings of {vectors.shape[1]} numbers to {out}")


def read_recordings(annotations: Sequence[Path]) -> list[dict[str, str]]:
    """The rows of all annotations, each recording once; an ID that names two different recordings is refused."""
    rows: dict[str, dict[str, str]] = {}
    for annotation in annotations:
        for row in read_annotation(annotation):
            known = rows.setdefault(row["ID"], row)
            if any(known[column] != row[column] for column in COLUMNS):
                raise ValueError(
                    f"{annotation} has the ID {row['ID']} for another recording than before ({known['wav']}, samples "
                    f"{known['start']} to {known['stop']}): give each recording its own ID"
                )
    return list(rows.values())


def read_annotation(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that SpeechBrain's data preparation wrote."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a CSV that the recipe's preparation wrote")
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error
    missing = set(COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(sorted(missing))}, or no rows: give train.csv or a file like it"
        )
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(
                f"row {number} of {path} has more or fewer values than the {len(rows[0])} columns: correct it"
            )
        if not (row["start"].isdecimal() and row["stop"].isdecimal() and int(row["start"]) < int(row["stop"])):
            raise ValueError(
                f"row {number} of {path} is samples {row['start']!r} to {row['stop']!r}: give two integers, the first "
                "the smaller one"
            )
    return rows


def load(recipe: Path, overrides: list[str], device: str) -> dict[str, Any]:
    """The recipe, with the weights loaded by its pretrainer, ready to embed."""
    import ruamel.yaml
    import yaml
    from hyperpyyaml import load_hyperpyyaml

    if not recipe.is_file():
        raise ValueError(f"{recipe} does not exist: `verimargin hparams` lists recipes and copies one")
    if wrong := [text for text in overrides if "=" not in text]:
        raise ValueError(f"--set {wrong[0]} has no value: give KEY=VALUE")
    values = as_yaml(dict(text.partition("=")[::2] for text in overrides))
    try:
        hparams = load_hyperpyyaml(read_text(recipe), values or None)
    except (yaml.YAMLError, ruamel.yaml.error.YAMLError) as error:
        raise ValueError(f"{recipe} is no YAML file: {' '.join(str(error).split())}") from error
    except KeyError as error:  # of an override
        raise ValueError(
            f"{recipe} has no key that one of the --set options names ({error}): give a verification recipe, such as "
            "verify_ecapa_small.yaml, and keys of it"
        ) from error
    for name in ("compute_features", "mean_var_norm", "embedding_model", "pretrainer"):
        if name not in hparams:
            raise ValueError(f"{recipe} has no {name}: give a recipe of speaker_verification_cosine.py")
    with tempfile.TemporaryDirectory() as folder:  # the script's output folder need not exist
        hparams["pretrainer"].set_collect_in(folder)
        try:
            hparams["pretrainer"].collect_files()
            hparams["pretrainer"].load_collected()
        except Exception as error:  # of the fetcher or of torch
            raise ValueError(
                f"the models of {recipe} cannot be loaded: set pretrain_path to the folder of their checkpoints, and "
                f"the recipe's sizes to theirs ({error})"
            ) from error
    for name in ("compute_features", "mean_var_norm", "embedding_model"):
        hparams[name].to(device).eval()
    return hparams


def _resumable(rows: list[dict[str, str]], hparams: dict[str, Any], device: str, partial: Path) -> np.ndarray:
    """The embeddings (N, d). Each is appended to a file when it is made, so that a later run can continue."""
    vectors: list[np.ndarray] = []
    size = 0
    if partial.is_file() and partial.stat().st_size:
        size = len(_embed(rows[0], hparams, device))
        kept = np.fromfile(partial, np.float32)
        vectors = list(kept[: len(kept) // size * size].reshape(-1, size))[: len(rows)]
        os.truncate(partial, 4 * size * len(vectors))
    with naming(partial), partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is making these embeddings ({partial} is in use): wait for it, or give another OUT"
            ) from None
        for row in progress(rows[len(vectors) :], "embedding", "recording", initial=len(vectors), total=len(rows)):
            vectors.append(_embed(row, hparams, device))
            if len(vectors) == 1:
                check_room(partial, 2 * vectors[0].nbytes * len(rows))  # also for the file that is made of this one
            file.write(vectors[-1].tobytes())
    partial.unlink()
    return np.stack(vectors)


def _embed(row: dict[str, str], hparams: dict[str, Any], device: str) -> np.ndarray:
    import soundfile

    path = row["wav"].replace("$data_root", str(hparams.get("data_folder", "")))
    if not Path(path).is_file():
        raise ValueError(f"{path} of {row['ID']} does not exist: set data_folder to where the recordings are")
    start, stop = int(row["start"]), int(row["stop"])
    try:
        samples, rate = soundfile.read(path, start=start, stop=stop, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} of {row['ID']} is no recording that can be read: {error}") from error
    if len(samples) != stop - start:
        raise ValueError(
            f"{row['ID']} is samples {start} to {stop} of {path}, which ends at {start + len(samples)}: the recording "
            "has changed since the annotation was made"
        )
    if (wanted := _sample_rate(hparams)) and rate != wanted:
        raise ValueError(f"{path} has {rate} samples per second, the recipe takes {wanted}: resample the recordings")
    if samples.ndim != 1:
        raise ValueError(f"{path} has {samples.shape[1]} channels: give recordings with one channel")
    length = torch.ones(1, device=device)
    with torch.no_grad():
        features = hparams["compute_features"](torch.from_numpy(samples)[None].to(device))
        embedding = hparams["embedding_model"](hparams["mean_var_norm"](features, length), length)
    check_norms(embedding.reshape(1, -1).float().norm(dim=1).cpu(), "the embedding of", [row["ID"]])
    return embedding.reshape(-1).float().cpu().numpy()


def _sample_rate(hparams: dict[str, Any]) -> int | None:
    """The recipe's, if it says so: by its own key, or by its features' spectrum."""
    spectrum = getattr(hparams["compute_features"], "compute_STFT", None)
    return hparams.get("sample_rate", getattr(spectrum, "sample_rate", None))
