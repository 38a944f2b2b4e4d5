"""Exports a backbone to an ONNX file that accepts any batch size."""

from __future__ import annotations

import os

import torch
from verimargin.files.onnx import INPUT, OUTPUT, dynamic_batch
from verimargin.files.whole import whole


def export_onnx(backbone: torch.nn.Module, path: str | os.PathLike, image_size: int = 112, opset: int = 17) -> None:
    """Write a backbone (B, 3, H, W) -> (B, d) to an ONNX file, for any B.

    Its input is RGB in [-1, 1], (pixel - 127.5) / 127.5, as in arcface_torch's scripts and in insightface's
    ArcFaceONNX. The file appears under its name when it is complete.

    Args:
        backbone: on the CPU; it is exported in evaluation mode, and its mode is restored afterwards.
        path: the file.
        image_size: H and W.
        opset: must be 13 or more for networks with attention.
    """
    was_training = backbone.training
    export = dynamic_batch(torch.onnx.export)
    try:
        backbone.eval()
        image = torch.zeros(1, 3, image_size, image_size)
        with whole(path) as partial:
            export(backbone, image, str(partial), input_names=[INPUT], output_names=[OUTPUT], opset_version=opset)
    finally:
        backbone.train(was_training)
