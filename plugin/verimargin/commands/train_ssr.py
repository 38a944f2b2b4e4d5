"""`verimargin train-ssr`: IDA-L's regressor, fitted to the densities of a training set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..files.anchors import read_anchors
from ..files.embeddings import read_embeddings
from ..files.scorers import write_regressor
from ..scoring.ida import IDAScorer
from ..scoring.regressor import SupportSetRegressor
from .options import DeviceOption, KOption, SeedOption, TauOption, TrainingArgument
from .output import new_output


@new_output(".pt")
def train_ssr(
    embeddings: TrainingArgument,
    anchors: Annotated[Path, typer.Argument(help="a file that verimargin anchors wrote")],
    out: Annotated[Path, typer.Argument(help="a new .pt")],
    k: KOption = 10,
    tau: TauOption = 1.0,
    hidden: Annotated[int, typer.Option(help="the number of units in the hidden layer")] = 512,
    epochs: Annotated[int, typer.Option(help="the largest number of epochs")] = 200,
    patience: Annotated[int, typer.Option(help="stop after this many epochs without an improvement")] = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Fit IDA-L's regressor to the densities of the EMBEDDINGS among the ANCHORS, and write it to OUT.

    If the identity of an embedding has an anchor, that anchor is left out of the embedding's density.
    """
    from tqdm import tqdm

    given = read_embeddings(embeddings)
    if given.source.get("kind") in ("fc", "real", "fake"):
        raise ValueError(
            f"{embeddings} is a file of anchors: give the training set's embeddings first, then the anchors"
        )
    size = given.vectors.shape[1]
    among = read_anchors(anchors, size, given.encoder)
    place = {name: n for n, name in enumerate(among.ids)}
    own = torch.tensor([place.get(label, -1) for label in given.labels or [""] * len(given.ids)], device=device)
    with_anchor = int((own >= 0).sum())
    f, scorer = given.vectors.to(device), IDAScorer(among.vectors.to(device), k, tau)
    log_density = scorer.log_density(f, own if with_anchor else None)
    density = log_density.double().exp()
    if not bool((density > 0).all()) or bool(density.isinf().any()):
        raise ValueError(f"--tau is {tau:g}, with which a density leaves the range of numbers: give one nearer to 1")
    regressor = SupportSetRegressor(size, hidden, k, tau).to(device)
    with tqdm(total=epochs, desc="fitting", unit="epoch", disable=None) as bar:

        def on_epoch(epoch: int, train_error: float, held_out_error: float) -> None:
            bar.update()
            bar.set_postfix(train=f"{train_error:.4f}", held_out=f"{held_out_error:.4f}")

        fit = regressor.fit(f, density, epochs=epochs, patience=patience, seed=seed, on_epoch=on_epoch)
    source = {"anchors": among.source, "number": len(among.ids), "embeddings": len(given.ids), **fit._asdict()}
    write_regressor(out, regressor, given.encoder or among.encoder, source)
    print(
        f"{out}: fitted to {len(given.ids)} embeddings, {with_anchor} of them with an anchor of their own identity, in "
        f"{fit.epochs} epochs; on the held-out part the squared error of log F is {fit.held_out_error:.3f} of its "
        f"variance (epoch {fit.best_epoch})"
    )
