"""`verimargin train-ssr` and `export-onnx`: IDA-L's regressor, fitted and shipped with its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..files.anchors import encoder_of, load_anchors
from ..files.networks import load_network
from ..files.onnx import export_with_density
from ..files.whole import new_file
from ..scoring.ida import IDAScorer
from ..scoring.regressor import SupportSetRegressor, load_regressor, save_regressor
from .anchors import read_labelled, sizes_of


def train_ssr(
    out: Annotated[Path, typer.Argument(help="a new .pt")],
    embeddings: Annotated[Path, typer.Argument(help=".npz with `embeddings` and `labels`, of a training set")],
    anchors: Annotated[Path, typer.Argument(help="a file of verimargin anchors")],
    k: Annotated[int, typer.Option(help="nearest anchors in a support set")] = 10,
    tau: Annotated[float, typer.Option(help="IDA's temperature")] = 1.0,
    hidden: Annotated[int, typer.Option(help="units of the hidden layer")] = 512,
    epochs: Annotated[int, typer.Option(help="at most")] = 200,
    patience: Annotated[int, typer.Option(help="epochs without a better one, after which to stop")] = 10,
    seed: Annotated[int, typer.Option(help="of weights, batches and the held-out part")] = 0,
    device: Annotated[str, typer.Option(help="where to compute, such as cuda")] = "cpu",
) -> None:
    """Fit IDA-L's regressor to the densities of EMBEDDINGS among ANCHORS, into OUT.

    An embedding whose identity (label) has an anchor doesn't count that one.
    """
    from tqdm import tqdm

    new_file(out, ".pt")
    vectors, labels = read_labelled(embeddings)
    encoder = encoder_of(embeddings)
    among = load_anchors(anchors, vectors.shape[1], encoder)
    place = {name: n for n, name in enumerate(among.ids)}
    own = torch.tensor([place.get(label, -1) for label in labels or [""] * len(vectors)], device=device)
    with_anchor = int((own >= 0).sum())
    f, scorer = vectors.float().to(device), IDAScorer(among.vectors.to(device), k, tau)
    log_density = scorer.log_density(f, own if with_anchor else None)
    regressor = SupportSetRegressor(vectors.shape[1], hidden, k, tau).to(device)
    with tqdm(total=epochs, desc="fitting", unit="epoch", disable=None) as bar:

        def on_epoch(epoch: int, train_error: float, held_out_error: float) -> None:
            bar.update()
            bar.set_postfix(train=f"{train_error:.4f}", held_out=f"{held_out_error:.4f}")

        fit = regressor.fit(
            f, log_density.double().exp(), epochs=epochs, patience=patience, seed=seed, on_epoch=on_epoch
        )
    source = {"anchors": among.source, "number": len(among.ids), "embeddings": len(vectors), **fit._asdict()}
    save_regressor(out, regressor, encoder or among.encoder, source)
    print(
        f"{out}: fitted to {len(vectors)} embeddings, {with_anchor} of them with an anchor of their own identity, in "
        f"{fit.epochs} epochs; on the held-out part the squared error of log F is {fit.held_out_error:.3f} of its "
        f"variance (epoch {fit.best_epoch})"
    )


def export_onnx(
    out: Annotated[Path, typer.Argument(help="a new .onnx")],
    encoder: Annotated[str, typer.Argument(help="an .onnx file, a TorchScript file or module:name of a torch module")],
    regressor: Annotated[Path, typer.Argument(help="a file of verimargin train-ssr")],
    input_shape: Annotated[str, typer.Option(help="of one sample, such as 3x112x112; for torch's")] = "",
) -> None:
    """The ENCODER and the REGRESSOR's density as one ONNX graph OUT: outputs embedding and log density."""
    new_file(out, ".onnx")
    network, _ = load_network(encoder)
    density = load_regressor(regressor)
    if encoder.endswith(".onnx"):
        export_with_density(encoder, density, out)
    elif isinstance(network, torch.nn.Module):
        export_with_density(network, density, out, sizes_of("input_shape", input_shape))
    else:
        raise ValueError(f"{encoder} is no torch module: give one, a TorchScript file or an .onnx file")
    print(f"{out}: score pairs by {density.tau:g} * cosine + logaddexp of the two log densities")
