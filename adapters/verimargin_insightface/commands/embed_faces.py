"""`verimargin embed-faces`: the embeddings of a training set, as the IJB evaluators embed their images."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from verimargin.files.networks import TORCH_FILES, fingerprint, load_network
from verimargin.files.whole import new_file, save_npz

from ..recordio import Record, RecordReader, unpack

SIDE = 112  # pixels


def embed_faces(
    out: Annotated[Path, typer.Argument(help="a new .npz, for verimargin anchors real and train-ssr")],
    data: Annotated[Path, typer.Argument(help="a folder with train.rec and train.idx, or with a folder a class")],
    encoder: Annotated[Path, typer.Argument(help="model.pt or an .onnx file: the one that is to be evaluated")],
    network: Annotated[str, typer.Option(help="of a model.pt, such as r50; run in arcface_torch's folder then")] = "",
    per_identity: Annotated[int, typer.Option(min=0, help="random images of each identity; 0: all")] = 0,
    seed: Annotated[int, typer.Option(help="of the choice")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="images at a time")] = 64,
    device: Annotated[str, typer.Option(help="where a model.pt computes, such as cuda")] = "cpu",
) -> None:
    """Embed the training images of DATA by the ENCODER into OUT, with the identity of each.

    An image's embedding is the sum of its own and its mirror image's, as the evaluators have it. Labels are those that
    training used: class numbers of a RecordIO set, folder names of an image folder.
    """
    from tqdm import tqdm

    new_file(out, ".npz")
    names, labels, read = open_images(data)
    chosen = choose(labels, per_identity, seed)
    embed = load_encoder(encoder, network, device)
    parts = []
    for batch in tqdm(np.array_split(chosen, -(-len(chosen) // batch_size)), "embedding", unit="batch", disable=None):
        parts.append(embed(np.stack([decode(read(int(n))) for n in batch])).float().cpu().numpy())
    source = {"data": data.resolve().name, "per_identity": per_identity, "seed": seed}
    save_npz(
        out,
        embeddings=np.concatenate(parts),
        labels=names[labels[chosen]],
        encoder=fingerprint(encoder),
        source=json.dumps(source),
    )
    print(f"{len(chosen)} embeddings of {len(np.unique(labels[chosen]))} identities in {out}")


def open_images(data: Path) -> tuple[np.ndarray, np.ndarray, Callable[[int], Record]]:
    """The classes' names, the class (a position among them) of each image, and a function that reads image n."""
    rec, idx = data / "train.rec", data / "train.idx"
    if rec.exists() != idx.exists():
        raise ValueError(f"{data} has only one of train.rec and train.idx: give a folder with both")
    if rec.exists():
        records = RecordReader(idx, rec)
        keys, numbers = _labels(records)
        names, labels = np.unique(numbers, return_inverse=True)
        return names.astype(str), labels, lambda n: unpack(records.read_idx(int(keys[n])))[1]
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder: give one with train.rec and train.idx, or with a folder a class")
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(str(data))
    except FileNotFoundError as error:
        raise ValueError(f"{data} holds neither train.rec nor a folder of images for each class: {error}") from error
    paths = [path for path, _ in folder.samples]
    return (
        np.array(folder.classes),
        np.array(folder.targets),
        lambda n: Record.of(Path(paths[n]).read_bytes(), paths[n]),
    )


def _labels(records: RecordReader) -> tuple[np.ndarray, np.ndarray]:
    """The key and the class number of each image, by the class ranges where the set has them."""
    head = unpack(records.read_idx(0))[0] if 0 in records else None
    if head is None or not head.flag:
        return records.keys, np.array([_number(records, key) for key in records.keys])
    first, end = (int(key) for key in head.label[:2])  # type: ignore[index]
    ranges = np.array([unpack(records.read_idx(key))[0].label[:2] for key in range(first, end)], np.int64)  # type: ignore[index]
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    keys = np.concatenate([np.arange(*span) for span in ranges])
    return keys, np.repeat([_number(records, int(key)) for key, _ in ranges], ranges[:, 1] - ranges[:, 0])


def _number(records: RecordReader, key: int) -> int:
    return int(np.ravel(unpack(records.read_idx(int(key)))[0].label)[0])


def choose(labels: np.ndarray, per_identity: int, seed: int) -> np.ndarray:
    """Positions of `per_identity` random images of each class (all of a smaller one), in order; of all images if 0."""
    if not per_identity:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return np.sort(np.concatenate([order[a:b][:per_identity] for a, b in pairwise([*starts, len(order)])]))


def decode(image: Record) -> np.ndarray:
    """(112, 112, 3) RGB."""
    from ..mxnet_names import imdecode

    pixels = imdecode(image)
    if pixels.shape[:2] != (SIDE, SIDE):
        raise ValueError(f"{image.origin} is {pixels.shape[1]} x {pixels.shape[0]}: align the faces to {SIDE} x {SIDE}")
    return pixels


def load_encoder(path: Path, network: str = "", device: str = "cpu") -> Callable[[np.ndarray], Tensor]:
    """A function from RGB images (B, 112, 112, 3), 0..255, to embeddings (B, d), each summed with its mirror image's.

    The network is fed (pixel - 127.5) / 127.5, as training and the evaluators feed it; an ONNX file that begins with
    a subtraction and a scaling of its own is fed the pixels, as upstream's `ArcFaceORT` does.
    """
    scaled = True
    if path.suffix in TORCH_FILES and network:
        encode = _backbone(path, network, device)
    else:
        try:
            encode, _ = load_network(str(path), device)
        except ValueError as error:
            raise ValueError(f"{error}; of a model.pt that train_v2.py wrote, give --network, such as r50") from error
        scaled = path.suffix != ".onnx" or not _scales(path)

    @torch.no_grad()
    def embed(images: np.ndarray) -> Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = ((x - 127.5) / 127.5 if scaled else x).to(device)
        return encode(x.contiguous()) + encode(x.flip(3).contiguous())

    return embed


def _backbone(path: Path, network: str, device: str) -> Callable[[Tensor], Tensor]:
    get_model: Callable[..., Any] = load_network("backbones:get_model")[0]
    backbone = get_model(network, dropout=0, fp16=False)
    backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return backbone.to(device).eval()


def _scales(path: Path) -> bool:
    """As upstream finds it out, by the names of the first nodes."""
    import onnx

    first = [node.name for node in onnx.load(path, load_external_data=False).graph.node[:8]]
    return all(any(name.startswith(kinds) for name in first) for kinds in (("Sub", "_minus"), ("Mul", "_mul", "Div")))
