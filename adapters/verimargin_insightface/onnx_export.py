"""A backbone as an ONNX file that any batch size runs through."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable

import torch

INPUT, OUTPUT = "data", "embedding"


def export_onnx(backbone: torch.nn.Module, path: str | os.PathLike, image_size: int = 112, opset: int = 17) -> None:
    """Write a backbone (B, 3, H, W) -> (B, d) to an ONNX file, with any B.

    Its input is RGB in [-1, 1], (pixel - 127.5) / 127.5, as arcface_torch's scripts and insightface's
    ArcFaceONNX feed it. The file appears under its name when it is complete.

    Args:
        backbone: on the CPU; exported in evaluation mode and left in the mode it was in.
        path: the file.
        image_size: H and W.
        opset: 13 or more for networks with attention.
    """
    was_training, partial = backbone.training, f"{os.fspath(path)}.partial"
    export = dynamic_batch(torch.onnx.export)
    try:
        backbone.eval()
        image = torch.zeros(1, 3, image_size, image_size)
        export(backbone, image, partial, input_names=[INPUT], output_names=[OUTPUT], opset_version=opset)
    finally:
        backbone.train(was_training)
    os.replace(partial, path)


def dynamic_batch(export: Callable) -> Callable:
    """`torch.onnx.export` of one input and one output that traces, and keeps the batch size open.

    A traced reshape has the example's batch size in it, unless that axis is declared dynamic.
    """

    has_dynamo = "dynamo" in inspect.signature(export).parameters

    @functools.wraps(export)
    def traced(model, args, f, *, dynamo=False, dynamic_axes=None, input_names=None, output_names=None, **kwargs):
        names = {"input_names": input_names or [INPUT], "output_names": output_names or [OUTPUT]}
        axes = dynamic_axes or {name: {0: "batch"} for some in names.values() for name in some}
        exporter = {"dynamo": dynamo} if has_dynamo else {}
        args = args if isinstance(args, tuple) else (args,)
        return export(model, args, f, dynamic_axes=axes, **names, **exporter, **kwargs)

    return traced
