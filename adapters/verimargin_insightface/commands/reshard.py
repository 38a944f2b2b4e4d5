"""`verimargin reshard`: a checkpoint of arcface_torch for another number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from verimargin.commands.progress import progress
from verimargin.files.run_record import NAME
from verimargin.files.whole import check_room, whole_folder

from .. import rank_files
from ..resharding import ShardedCheckpoint

BESIDE = ("model.pt", NAME)  # the backbone, and the record of the loss, which go with the checkpoint


def reshard(
    run: Annotated[Path, typer.Argument(help="the folder of a run, with the checkpoint_gpu_<rank>.pt of all ranks")],
    out: Annotated[Path, typer.Argument(help="a new folder for those of the new ranks, and for model.pt")],
    ranks: Annotated[int, typer.Option(min=1, help="how many ranks the new checkpoint is for")],
) -> None:
    """Cut a checkpoint of train_v2.py anew, from any number of ranks to any other.

    Upstream's own checkpoints and those of our head are read. Prototypes, momentum and KappaFace's state stay equal bit
    for bit. With `register(config)`, config.resume does the same by itself.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is no folder: give the one that train_v2.py wrote its checkpoints to")
    chosen = rank_files.newest(run, *rank_files.find(run))
    checkpoint = ShardedCheckpoint([file.path for file in chosen])
    checkpoint.check_ranks(ranks)
    with whole_folder(out) as folder:
        check_room(out, checkpoint.size_on(ranks))
        for rank in progress(range(ranks), "resharding", "rank"):
            torch.save(checkpoint.for_rank(rank, ranks), folder / f"checkpoint_gpu_{rank}.pt")
        for name in BESIDE:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
    print(
        f"wrote the checkpoint of epoch {chosen[0].save[0]}, {checkpoint.classes} classes of {len(chosen)} ranks on "
        f"{ranks}: set config.output = {str(out)!r} and config.resume = True"
    )
