"""The checkpoints of train_v2.py, one file for each rank: written whole, and found again as those of one save.

Upstream overwrites its only checkpoint in place, each rank its own file, so that a kill leaves a file that is cut short
or the files of two epochs. Here the new files of all ranks are whole, under names with `.partial`, before the first of
them takes its own name. At any moment the folder then holds all files of one save, whichever process is killed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from verimargin._sharding import part_of
from verimargin.files.whole import whole

HEAD = "state_dict_softmax_fc"
METADATA = "verimargin"  # what our head adds to the metadata of its state dict, and a save to the checkpoint
PARTIAL = ".partial"  # one name for each file, so that the next save overwrites what a kill has left
NAME = re.compile(r"checkpoint_gpu_(\d+)\.pt(\.partial)?")


class RankFile(NamedTuple):
    """What one file says about itself. Our head records the numbers of ranks and classes; upstream's does not."""

    path: str
    rank: int
    partial: bool
    save: tuple  # the same for all files of one save
    ranks: int | None
    classes: int | None
    rows: int


def save_whole(save: Callable, obj: Any, path: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
    """`torch.save` to a file that replaces the old one when it is complete, and those of the other ranks are."""
    path = Path(os.path.realpath(path))
    if not NAME.fullmatch(path.name):
        with whole(path) as partial:
            save(obj, partial, *args, **kwargs)
        return
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            save(obj, file, *args, **kwargs)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if dist.is_initialized():
        dist.barrier()
    os.replace(partial, path)


def remove_others(folder: Path, rank: int, ranks: int) -> None:
    """Remove this rank's share of the files that are not of the present ranks, after all have saved."""
    for path, number, partial in _named(folder, rank, ranks):
        if partial or number >= ranks:
            path.unlink(missing_ok=True)


def saved(folder: str | Path) -> list[Path]:
    """The files that have their names, in rank order, whatever is in them."""
    return [path for path, _, partial in sorted(_named(Path(folder)), key=lambda file: file[1]) if not partial]


def resumable(folder: str | Path) -> bool:
    """Whether there is a checkpoint in the folder. A first one that a kill has left unfinished is none."""
    if saved(folder):
        return True
    try:
        return bool(newest(folder, *find(folder)))
    except ValueError:
        return False


def open_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint of a rank on the CPU; tensors are read from the file when they are used.

    Raises:
        ValueError: the file cannot be read, or is no checkpoint that train_v2.py wrote.
    """
    try:
        try:
            checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError:  # a file in the format of torch < 1.6 cannot be mapped
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile or torch
        raise ValueError(f"{path} cannot be read as a checkpoint: it is cut short or damaged") from error
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get(HEAD), Mapping):
        raise ValueError(f"{path} is no checkpoint that train_v2.py wrote with config.save_all_states = True")
    if not isinstance(checkpoint[HEAD].get("weight"), torch.Tensor):
        raise ValueError(f"{path} has no prototypes, which a head saves as `weight`")
    return dict(checkpoint)


def find(folder: str | Path, rank: int = 0, ranks: int = 1) -> tuple[list[RankFile], list[str]]:
    """The files of checkpoints in a folder, and why others cannot be read; with `ranks`, this rank's share of them."""
    found, faults = [], []
    for path, number, partial in sorted(_named(Path(folder), rank, ranks)):
        try:
            checkpoint = open_checkpoint(path)
        except ValueError as error:
            if not partial:
                faults.append(str(error))
            continue
        head = checkpoint[HEAD]
        layout = getattr(head, "_metadata", {}).get("", {}).get(METADATA, {}).get("layout", {})
        save = checkpoint.get("epoch"), checkpoint.get("global_step"), checkpoint.get(METADATA)
        sizes = layout.get("ranks"), layout.get("classes"), len(head["weight"])
        found.append(RankFile(str(path), number, partial, save, *sizes))
    return found, faults


def newest(
    folder: str | Path, files: Iterable[RankFile], faults: Iterable[str] = (), classes: int | None = None
) -> list[RankFile]:
    """The files of one save, in rank order.

    Args:
        files, faults: from `find`.
        classes: how many the head has, if that is known. Files of upstream's head do not tell how many belong together;
            without `classes`, all that are there have to.

    Raises:
        ValueError: there are no files, one is missing or damaged, or they are not of one save.
    """
    places = {(file.rank, file.partial): file for file in files}
    reasons = list(faults)
    for partial in (False, True):
        if first := places.get((0, partial)):
            together, reason = _together(places, first, classes)
            if together:
                return together
            reasons.append(reason)
    if not reasons:
        reasons = [_missing(0) if places else "it has no checkpoint_gpu_<rank>.pt"]
    raise ValueError(
        f"{folder} holds no whole checkpoint: {reasons[0]}. train_v2.py writes one file for each rank, with "
        "config.save_all_states = True; give the folder with those of all ranks"
    )


def finish(files: Iterable[RankFile], rank: int = 0, ranks: int = 1) -> None:
    """Give this rank's share of the files that `newest` chose their names, where a kill prevented it."""
    for file in files:
        if file.partial and file.rank % ranks == rank:
            os.replace(file.path, named(file))


def named(file: RankFile) -> str:
    return file.path.removesuffix(PARTIAL)


def _named(folder: Path, rank: int = 0, ranks: int = 1) -> list[tuple[Path, int, bool]]:
    """Path, rank and whether it is partial of each file in the folder that is this rank's to look at."""
    matches = [(path, NAME.fullmatch(path.name)) for path in (folder.iterdir() if folder.is_dir() else ())]
    return [(path, int(m[1]), bool(m[2])) for path, m in matches if m and int(m[1]) % ranks == rank and path.is_file()]


def _together(
    places: Mapping[tuple[int, bool], RankFile], first: RankFile, classes: int | None
) -> tuple[list[RankFile], str]:
    """All files of the save that rank 0's is of; or none, and the reason."""
    highest = max(rank for rank, _ in places)
    same = {
        rank: file
        for partial in (True, False)  # a file with its name before a partial one
        for rank in range(highest + 1)
        if (file := places.get((rank, partial))) and (file.save, file.ranks) == (first.save, first.ranks)
    }
    ranks = first.ranks or max(same) + 1
    for rank in range(ranks):
        if rank not in same:
            return [], _other(places[rank, False], first) if (rank, False) in places else _missing(rank)
    if first.ranks is None and classes is None and ranks <= highest:
        return [], _other(next(file for (rank, _), file in places.items() if rank == highest), first)
    chosen = [same[rank] for rank in range(ranks)]
    rows, known = [file.rows for file in chosen], first.classes or classes
    total = known or sum(rows)
    if rows != [part_of(total, ranks, rank)[1] for rank in range(ranks)]:
        whole_head = f" of {total} classes" if known else ""
        return [], f"{', '.join(map(str, rows))} prototypes on {ranks} ranks are not the parts of one head{whole_head}"
    return chosen, ""


def _missing(rank: int) -> str:
    return f"checkpoint_gpu_{rank}.pt is missing"


def _other(file: RankFile, first: RankFile) -> str:
    def described(file: RankFile) -> str:
        epoch, step, _ = file.save
        return f"of epoch {epoch}, step {step}" + (f", on {file.ranks} ranks" if file.ranks else "")

    name = f"checkpoint_gpu_{file.rank}.pt"
    if described(file) == described(first):
        return f"{name} is of another save than checkpoint_gpu_0.pt"
    return f"{name} is {described(file)}, and checkpoint_gpu_0.pt {described(first)}"
