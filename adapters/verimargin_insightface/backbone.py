"""The network of a training run as a function from images to embeddings, as training and the evaluators use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verimargin.files.networks import TORCH_FILES, load_network
from verimargin.files.onnx import read_graph
from verimargin.files.reading import read_tensors


def load_encoder(
    path: Path, network: str = "", device: str = "cpu", size: int | None = None
) -> Callable[[np.ndarray], Tensor]:
    """A function from RGB images (B, 112, 112, 3) with values 0..255 to embeddings (B, d).

    Each embedding is the sum of that of the image and that of its mirror image. The network receives
    (pixel - 127.5) / 127.5, as in training and in the evaluators. An ONNX file that begins with its own subtraction and
    scaling receives the pixels, as in upstream's `ArcFaceORT`.

    Args:
        network: of a state dict, as `backbones.get_model` names it.
        size: d of that network, if it is not its default.
    """
    scaled = True
    if path.suffix in TORCH_FILES and network:
        encode = _backbone(path, network, device, size)
    else:
        try:
            encode, _ = load_network(str(path), device)
        except ValueError as error:
            raise ValueError(f"{error}; for a model.pt that train_v2.py wrote, give --network, such as r50") from error
        scaled = path.suffix != ".onnx" or not _scales(path)

    @torch.no_grad()
    def embed(images: np.ndarray) -> Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = ((x - 127.5) / 127.5 if scaled else x).to(device)
        return encode(x.contiguous()) + encode(x.flip(3).contiguous())

    return embed


def _backbone(path: Path, network: str, device: str, size: int | None) -> Callable[[Tensor], Tensor]:
    get_model: Callable[..., Any] = load_network("backbones:get_model")[0]
    try:
        backbone = get_model(network, dropout=0, fp16=False, **({"num_features": size} if size else {}))
    except ValueError as error:  # a bare one, of a name that it does not know
        raise ValueError(f"backbones.get_model does not know the network {network!r}: give config.network") from error
    state = read_tensors(path, "the model.pt of the training")
    try:
        backbone.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold the weights of the network {network}: give the model.pt of the training, and its "
            "config.network"
        ) from error
    return backbone.to(device).eval()


def _scales(path: Path) -> bool:
    """Whether an ONNX file scales its input, judged by the names of its first nodes, as upstream does."""
    first = [node.name for node in read_graph(path, complete=False).graph.node[:8]]
    return all(any(name.startswith(kinds) for name in first) for kinds in (("Sub", "_minus"), ("Mul", "_mul", "Div")))
