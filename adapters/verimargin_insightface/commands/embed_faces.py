"""`verimargin embed-faces`: embeds a training set of faces in the way the IJB evaluators embed their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from verimargin.commands.options import DeviceOption, SeedOption
from verimargin.commands.output import new_output
from verimargin.commands.progress import progress
from verimargin.files.choice import choose
from verimargin.files.embeddings import Embeddings, write_embeddings
from verimargin.files.networks import TORCH_FILES, fingerprint, load_network
from verimargin.files.onnx import read_graph
from verimargin.files.reading import read_tensors
from verimargin.files.whole import check_room

from ..image_folder import check_class_folders
from ..recordio import Record, RecordError, RecordReader, key_range, unpack

SIDE = 112  # pixels


@new_output(".npz")
def embed_faces(
    data: Annotated[Path, typer.Argument(help="a folder with train.rec and train.idx, or with one folder per class")],
    encoder: Annotated[Path, typer.Argument(help="the model.pt or .onnx file that is to be evaluated")],
    out: Annotated[Path, typer.Argument(help="a new .npz, for verimargin anchors real and train-ssr")],
    network: Annotated[
        str, typer.Option(help="the network of a model.pt, such as r50; run the command in arcface_torch's folder then")
    ] = "",
    per_identity: Annotated[
        int, typer.Option(min=0, help="how many random images to take of each identity; 0 for all")
    ] = 0,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="images per batch")] = 64,
    device: DeviceOption = "cpu",
) -> None:
    """Embed the training images of DATA with the ENCODER, and write them to OUT with their identities.

    The embeddings of an image and of its mirror image are added, as in the evaluators. The identities are those of the
    training: class numbers for a RecordIO set, folder names for an image folder.
    """
    images = open_images(data)
    chosen = choose(images.labels, per_identity, seed)
    embed = load_encoder(encoder, network, device)
    parts = []
    for batch in progress(np.array_split(chosen, -(-len(chosen) // batch_size)), "embedding", "batch"):
        parts.append(embed(np.stack([decode(images.read(int(n))) for n in batch])).float().cpu())
        if len(parts) == 1:
            check_room(out, 4 * len(chosen) * parts[0].shape[1])
    labels = images.names[images.labels[chosen]].tolist()
    ids = [images.ids[n] for n in chosen]
    source = {"data": data.resolve().name, "per_identity": per_identity, "seed": seed}
    write_embeddings(out, Embeddings(ids, torch.cat(parts), labels, fingerprint(encoder), source))
    print(f"{len(chosen)} embeddings of {len(set(labels))} identities in {out}")


@dataclass(frozen=True)
class Images:
    names: np.ndarray  # the names of the classes
    labels: np.ndarray  # the class of each image, as a position among the names
    ids: list[str]  # one per image
    read: Callable[[int], Record]  # returns the encoded image at a position


def open_images(data: Path) -> Images:
    """Open a RecordIO set or an image folder."""
    rec, idx = data / "train.rec", data / "train.idx"
    if rec.exists() != idx.exists():
        raise ValueError(f"{data} has only one of train.rec and train.idx: give a folder with both")
    if rec.exists():
        records = RecordReader(idx, rec)
        keys, numbers = _labels(records)
        names, labels = np.unique(numbers, return_inverse=True)
        ids = [f"{number}/{key}" for number, key in zip(numbers, keys)]
        return Images(names.astype(str), labels, ids, lambda n: unpack(records.read_idx(int(keys[n])))[1])
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder: give one with train.rec and train.idx, or with one folder per class")
    from torchvision.datasets import ImageFolder

    check_class_folders(data)
    try:
        folder = ImageFolder(str(data))
    except FileNotFoundError as error:
        raise ValueError(f"{data} holds neither train.rec nor a folder of images for each class: {error}") from error
    paths = [Path(path) for path, _ in folder.samples]
    return Images(
        np.array(folder.classes),
        np.array(folder.targets),
        [path.relative_to(data).as_posix() for path in paths],
        lambda n: Record.from_file(paths[n]),
    )


def _labels(records: RecordReader) -> tuple[np.ndarray, np.ndarray]:
    """The key and the class number of each image, taken from the class ranges if the set has them."""
    head = unpack(records.read_idx(0))[0] if 0 in records else None
    if head is None or not head.flag:
        return records.keys, records.labels(records.keys)
    number = len(records.keys)
    first, end = key_range(head, records.rec_path)
    records.check_keys(np.arange(first, min(end, first + number + 1)))
    heads = (unpack(records.read_idx(key))[0] for key in range(first, end))
    ranges = np.array([key_range(head, records.rec_path) for head in heads], np.int64).reshape(-1, 2)
    counts = ranges[:, 1] - ranges[:, 0]
    if not 0 < counts.sum() <= number:
        raise RecordError(
            f"{records.rec_path} has {number} records, and classes of {counts.sum()} images: it is damaged"
        )
    keys = np.concatenate([np.arange(*span) for span in ranges])
    records.check_keys(keys)
    return keys, np.repeat(records.labels(ranges[counts > 0, 0]), counts[counts > 0])


def decode(image: Record) -> np.ndarray:
    """The image as RGB pixels (112, 112, 3); any other size is refused."""
    from ..mxnet_names import imdecode

    pixels = imdecode(image)
    if pixels.shape[:2] != (SIDE, SIDE):
        raise ValueError(f"{image.origin} is {pixels.shape[1]} x {pixels.shape[0]}: align the faces to {SIDE} x {SIDE}")
    return pixels


def load_encoder(path: Path, network: str = "", device: str = "cpu") -> Callable[[np.ndarray], Tensor]:
    """A function from RGB images (B, 112, 112, 3) with values 0..255 to embeddings (B, d).

    Each embedding is the sum of that of the image and that of its mirror image. The network receives
    (pixel - 127.5) / 127.5, as in training and in the evaluators. An ONNX file that begins with its own subtraction and
    scaling receives the pixels, as in upstream's `ArcFaceORT`.
    """
    scaled = True
    if path.suffix in TORCH_FILES and network:
        encode = _backbone(path, network, device)
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


def _backbone(path: Path, network: str, device: str) -> Callable[[Tensor], Tensor]:
    get_model: Callable[..., Any] = load_network("backbones:get_model")[0]
    backbone = get_model(network, dropout=0, fp16=False)
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
