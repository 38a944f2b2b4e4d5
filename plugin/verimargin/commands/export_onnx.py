"""`verimargin export-onnx`: an encoder and its regressor as one ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..files.networks import load_network
from ..files.onnx import export_with_density
from ..files.scorers import read_regressor
from .options import sizes_of
from .output import new_output


@new_output(".onnx")
def export_onnx(
    encoder: Annotated[str, typer.Argument(help="an .onnx file, a TorchScript file or module:name of a torch module")],
    regressor: Annotated[Path, typer.Argument(help="a file that verimargin train-ssr wrote")],
    out: Annotated[Path, typer.Argument(help="a new .onnx")],
    input_shape: Annotated[
        str, typer.Option(help="the shape of one sample, such as 3x112x112; not needed for an .onnx file")
    ] = "",
) -> None:
    """Join the ENCODER and the REGRESSOR in one ONNX graph that outputs the embedding and its log density."""
    network, _ = load_network(encoder)
    density = read_regressor(regressor).scorer
    if encoder.endswith(".onnx"):
        if input_shape:
            raise ValueError(f"--input-shape is {input_shape}, but {encoder} has its own: leave it out")
        export_with_density(encoder, density, out)
    elif isinstance(network, torch.nn.Module):
        export_with_density(network, density, out, sizes_of("input_shape", input_shape))
    else:
        raise ValueError(f"{encoder} is not a torch module: give one, a TorchScript file or an .onnx file")
    print(f"{out}: the score of a pair is {density.tau:g} * cosine + logaddexp of the two log densities")
