"""A folder laid out like VoxCeleb, and its trial list: reading them and checking that they fit together.

<folder>/wav/<speaker>/<session>/<utterance>.wav
<trials>: one line per trial, `<1 or 0> <enrol wav> <test wav>`, with paths relative to <folder>/wav
"""

from __future__ import annotations

import filecmp
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from verimargin.files.trials import named_trials, trial_names

logger = logging.getLogger(__name__)

MODEL = "embedding_model.ckpt"


class Trial(NamedTuple):
    same: bool
    enrol: str
    test: str


def read_trials(path: str | Path) -> list[Trial]:
    """The trials of a list in VoxCeleb's format; an error names a line that has another format."""
    return [Trial(*trial) for trial in named_trials(_filled(path))]


def write_trials(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Write a list of these pairs of recordings, where those of one speaker are target trials."""
    path.write_text("".join(f"{int(speaker_of(a) == speaker_of(b))} {a} {b}\n" for a, b in pairs), encoding="utf-8")


def recordings(trials: Iterable[Trial]) -> list[str]:
    """The recordings that the trials name, each once, sorted."""
    return sorted({wav for trial in trials for wav in (trial.enrol, trial.test)})


def speaker_of(utterance: str) -> str:
    """The speaker of a recording, given by its path relative to `wav`."""
    return utterance.split("/")[0]


def speakers(folder: str | Path, leave_out: Iterable[str] = ()) -> list[str]:
    """The speakers with a recording <folder>/wav/<speaker>/<session>/<utterance>.wav, without those in `leave_out`."""
    wav = _wav(Path(folder))
    left_out = set(leave_out)
    found = sorted(p.name for p in wav.iterdir() if p.is_dir() and p.name not in left_out and any(p.glob("*/*.wav")))
    if not found:
        raise ValueError(
            f"{wav} holds no training recording: it needs <speaker>/<session>/<utterance>.wav of speakers who are not "
            "in the trial list"
        )
    return found


def check_trials(data_folder: str, verification_file: str) -> list[str]:
    """The recordings that the trial list names, each of which must be in one of the folders.

    Args:
        data_folder: a folder laid out like VoxCeleb, or several such folders separated by commas.
        verification_file: the trial list. If it is a URL, it cannot be read yet, and the result is [].

    Raises:
        ValueError: a folder has no `wav`, or the list is malformed or names a recording that is not there.
    """
    folders = [_wav(folder) for folder in folders_of(data_folder)]
    if _is_url(verification_file):
        return []
    return list(_located(folders, verification_file))


def tested_recordings(data_folder: str, verification_file: str) -> dict[str, Path]:
    """The recordings that the trial list names, and their files; raises as `check_trials` does."""
    return _located([_wav(folder) for folder in folders_of(data_folder)], verification_file)


def check_verification(data_folder: str, verification_file: str, pretrain_path: str, save_folder: str) -> list[str]:
    """`check_trials`, and a check that the script will score the model of pretrain_path.

    SpeechBrain's pretrainer links the model into the save_folder and takes what it finds there the next time. In a
    folder that was used before, the model of that time would be scored again.

    Raises:
        ValueError: as for `check_trials`; the save_folder holds another model.
    """
    wanted, collected = (Path(folder, MODEL) for folder in (pretrain_path, save_folder))
    if Path(pretrain_path).is_file():
        raise ValueError(f"pretrain_path is the file {pretrain_path}: give the folder of the checkpoint")
    if wanted.is_file() and collected.is_file() and not filecmp.cmp(wanted, collected, shallow=False):
        raise ValueError(
            f"{collected} is the model of {collected.resolve().parent}, which would be scored again instead of the one "
            f"in {pretrain_path}: give each model an --output_folder of its own"
        )
    return check_trials(data_folder, verification_file)


def check_corpus(data_folder: str, verification_file: str, num_speakers: int, save_folder: str = "") -> None:
    """Refuse a corpus that a recipe cannot be run on, before anything is prepared or trained.

    A training needs of the trials only the names of the speakers, whom it leaves out. If none of these speakers is in
    the folders, a warning says so, and the recordings may be elsewhere.

    Args:
        data_folder, verification_file: as for `check_trials`.
        num_speakers: the recipe's number of classes, at least the number of training speakers; more are reported by
            a warning. The training speakers are those that the trial list does not name; if the list is a URL, the
            folder's speakers count as their largest possible number.
        save_folder: the recipe's. What a killed run has left there half-written is removed.

    Raises:
        ValueError: as for `check_trials` and `check_left_out`; there is no training recording, there are more training
            speakers than num_speakers, or the save_folder is of a run on another corpus.
    """
    folders = folders_of(data_folder)
    tested = {speaker_of(name) for name in check_left_out(data_folder, verification_file)}
    trained = {who for folder in folders for who in speakers(folder, tested)}
    if tested and not _present(folders, tested):
        logger.warning(
            "none of the speakers in %s is in %s: nobody is left out of training, and the trials need recordings that "
            "are elsewhere",
            verification_file,
            data_folder,
        )
    if save_folder:
        from .prepared import check_speakers_of, drop_cut_files

        drop_cut_files(save_folder)
        check_speakers_of(save_folder, trained)
    if len(trained) < num_speakers or not _is_url(verification_file):
        check_classes(data_folder, len(trained), num_speakers)


def check_left_out(data_folder: str, verification_file: str) -> list[str]:
    """The recordings that the trial list names, whose speakers SpeechBrain's preparation leaves out of training.

    Raises:
        ValueError: a folder has no `wav`; the list is malformed, or its paths do not begin with a speaker; some of its
            speakers are in the folders and a recording is not; or the preparation would train on one of its speakers.
    """
    folders = folders_of(data_folder)
    inside = [_wav(folder) for folder in folders]
    if _is_url(verification_file):
        return []
    names = sorted(trial_names(_filled(verification_file)))
    present = _present(folders, {speaker_of(name) for name in names})
    if odd := [name for name in names if name.startswith("/") or (name.count("/") > 2 and not present)]:
        raise ValueError(
            f"the trial list {verification_file} names {odd[0]}: give paths relative to wav, <speaker>/<session>/"
            "<utterance>.wav, as their first folder is the speaker whom a training leaves out"
        )
    if present:
        _located(inside, verification_file)
    if strangers := sorted(present - _left_out(verification_file)):
        raise ValueError(
            f"SpeechBrain's preparation would train on {strangers[0]}, whom {verification_file} names: it reads only "
            "the first recording of each line, behind a single space; exchange the two recordings in one line of each "
            "such speaker, and put single spaces between the columns"
        )
    return names


def _present(folders: Iterable[Path], people: Iterable[str]) -> set[str]:
    """Those of the speakers who have a folder."""
    return {who for who in people for folder in folders if (folder / "wav" / who).is_dir()}


def _left_out(verification_file: str) -> set[str]:
    """The speakers whom the preparation of SpeechBrain's VoxCeleb recipes reads from a list."""
    with open(verification_file, encoding="utf-8") as lines:
        return {speaker_of(line.partition(" ")[2].partition(" ")[0]) for line in lines}


def check_classes(data_folder: str, trained: int, num_speakers: int) -> None:
    """Refuse more training speakers than classes, and warn of fewer; arguments as for `check_corpus`."""
    if trained > num_speakers:
        raise ValueError(
            f"{data_folder} has {trained} training speakers, the recipe has {num_speakers} classes: "
            f"set out_n_neurons to {trained}"
        )
    if trained < num_speakers:
        logger.warning(
            "the recipe has %d classes, and %s has recordings of %d speakers at most: the other classes never get a "
            "sample; set out_n_neurons to the number of training speakers",
            num_speakers,
            data_folder,
            trained,
        )


def _filled(path: str | Path) -> Path:
    """The path of a trial list that exists and is not empty."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the trial list {path} does not exist: set verification_file to the path of a trial list")
    if not path.stat().st_size:
        raise ValueError(f"the trial list {path} is empty")
    return path


def folders_of(data_folder: str) -> list[Path]:
    """The folders of a data_folder, which are separated by commas."""
    return [Path(part.strip()) for part in str(data_folder).split(",")]


def _located(folders: list[Path], verification_file: str) -> dict[str, Path]:
    """The file of each recording that the list names."""
    found = {}
    for name in sorted(trial_names(_filled(verification_file))):
        places = [folder / name for folder in folders if (folder / name).is_file()]
        if not places:
            raise ValueError(
                f"the trial list {verification_file} names {name}, which is not in {' or '.join(map(str, folders))}: "
                "give the list that belongs to this corpus"
            )
        found[name] = places[0]
    return found


def _wav(folder: Path) -> Path:
    if not (folder / "wav").is_dir():
        raise ValueError(
            f"{folder} has no folder 'wav': data_folder must be laid out like VoxCeleb, "
            "wav/<speaker>/<session>/<utterance>.wav"
        )
    return folder / "wav"


def _is_url(path: str) -> bool:
    return "://" in str(path)
