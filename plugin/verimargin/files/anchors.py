"""Anchors for IDA: from a classifier's prototypes, from training embeddings, or from generated samples.

Anchors are `Embeddings` of identities other than those to be scored, for ``IDAScorer(anchors.vectors)``. Their ids are
the identities; `source["kind"]` says how they were made: "fc", "real" or "fake".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .._checks import unit_rows
from .choice import choose
from .embeddings import Embeddings, check_encoder, read_embeddings
from .networks import TORCH_FILES, fingerprint
from .onnx_metadata import recorded_encoder
from .prototypes import in_rank_order, read_prototypes

ENCODER_FILES = ("embedding_model.ckpt", "model.pt")
Progress = Callable[[Sequence], Iterable]


def anchors_from_embeddings(
    embeddings: Tensor, labels: Sequence, seed: int = 0, exclude: Collection[str] = (), encoder: str = ""
) -> Embeddings:
    """One random embedding of each identity.

    Args:
        embeddings: (N, d) of any norm, of a training set.
        labels: (N,), the identity of each embedding; compared and stored as strings.
        seed: the seed of the random choice.
        exclude: identities that get no anchor, as strings, because they may be in the test set.
        encoder: `fingerprint` of the encoder.

    >>> anchors_from_embeddings(torch.eye(4), [7, 8, 7, 9], exclude=["9"]).ids
    ['7', '8']
    """
    names = [str(label) for label in labels]
    if embeddings.dim() != 2 or len(names) != len(embeddings):
        raise ValueError(
            f"there are {len(names)} labels, and embeddings of shape {tuple(embeddings.shape)}: give embeddings (N, d) "
            "and one label per embedding"
        )
    chosen = sorted(choose(names, 1, seed).tolist(), key=names.__getitem__)
    ids, vectors = [names[n] for n in chosen], embeddings[chosen].float()
    return without(Embeddings(ids, vectors, encoder=encoder, source={"kind": "real", "seed": seed}), exclude)


def anchors_from_prototypes(
    checkpoints: Sequence[str | Path], names: Sequence[str] = (), exclude: Collection[str] = (), encoder: str = ""
) -> Embeddings:
    """The prototypes of a classifier: SpeechBrain's `classifier.ckpt`, or `checkpoint_gpu_<rank>.pt` of Partial FC or
    of our head.

    Args:
        checkpoints: files written by `torch.save`, for a sharded head those of all ranks (in rank order, unless their
            names tell the rank); or a folder of `checkpoint_gpu_<rank>.pt`.
        names: the identity of each class, in class order; "0", "1", ... by default.
        exclude, encoder: as for `anchors_from_embeddings`.

    Raises:
        ValueError: the file of a rank is missing, or a file holds no prototypes, or one that is all 0 or not finite.
    """
    prototypes = read_prototypes(checkpoints)
    if prototypes.dim() == 3:
        raise ValueError(
            f"{checkpoints[0]} has {prototypes.shape[1]} sub-centres per class: `verimargin prune` leaves the dominant "
            "one of each; make the anchors from its prototypes.pt"
        )
    if names and len(names) != len(prototypes):
        raise ValueError(
            f"there are {len(names)} names for {len(prototypes)} classes: give one per class, in class order"
        )
    unit_rows(prototypes, "the prototype of class")  # refuses one without a direction
    ids = list(names) or [str(c) for c in range(len(prototypes))]
    source = {"kind": "fc", "files": [file.name for file in in_rank_order(checkpoints)]}
    return without(Embeddings(ids, prototypes, encoder=encoder, source=source), exclude)


@torch.no_grad()
def anchors_from_generator(
    generator: Callable[[Tensor], Tensor],
    encoder: Callable[[Tensor], Tensor],
    latent_size: int | Sequence[int],
    number: int,
    *,
    truncation: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress = iter,
) -> Embeddings:
    """Embeddings of generated samples: ``encoder(generator(latents))``, in batches.

    Args:
        generator: maps latents (B, *latent_size) to samples in the form that the encoder takes.
        encoder: maps samples to embeddings (B, d).
        number: the number of anchors.
        truncation: the latents are normally distributed; with a truncation, each of their numbers is drawn from
            -truncation..truncation only.
        seed: the seed of the latents, which depend neither on batch_size nor on the device.
        progress: wraps the list of batches, as tqdm does.
    """
    shape = [latent_size] if isinstance(latent_size, int) else list(latent_size)
    for name, value in (("latent_size", min(shape, default=0)), ("number", number), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give an integer >= 1")
    if truncation is not None and not truncation > 0.0:
        raise ValueError(f"truncation is {truncation}: give a number > 0, or none")
    random = torch.Generator().manual_seed(seed)
    latents = torch.empty(number, *shape)
    if truncation is None:
        latents.normal_(generator=random)
    else:
        torch.nn.init.trunc_normal_(latents, 0.0, 1.0, -truncation, truncation, generator=random)
    parts = []
    for batch in progress(latents.split(batch_size)):
        embeddings = encoder(generator(batch.to(device)))
        parts.append(embeddings.float().reshape(len(batch), -1).cpu())
    source = {"kind": "fake", "latent_size": shape, "truncation": truncation, "seed": seed}
    vectors = torch.cat(parts)
    unit_rows(vectors, "the embedding of generated sample")  # refuses an embedding without a direction
    known = fingerprint(encoder) if isinstance(encoder, torch.nn.Module) else ""
    return Embeddings([f"generated-{n}" for n in range(number)], vectors, encoder=known, source=source)


def without(anchors: Embeddings, exclude: Collection[str]) -> Embeddings:
    """The anchors without those of the excluded identities, some of which may have no anchor."""
    if not exclude:
        return anchors
    left_out = set(exclude) & set(anchors.ids)
    kept = [n for n, name in enumerate(anchors.ids) if name not in left_out]
    if not kept:
        raise ValueError(f"all {len(anchors.ids)} identities are excluded: there are no anchors left")
    source = {**anchors.source, "excluded": sorted(left_out)}
    return replace(anchors, ids=[anchors.ids[n] for n in kept], vectors=anchors.vectors[kept], source=source)


def read_anchors(path: str | Path, embedding_size: int | None = None, encoder: str = "") -> Embeddings:
    """Anchors, or a cohort, from any file of embeddings.

    Raises:
        ValueError: as for `read_embeddings`; or the anchors have another size than the embeddings to be scored, or are
            known to come from another encoder.
    """
    anchors = read_embeddings(path)
    if embedding_size is not None and anchors.vectors.shape[1] != embedding_size:
        raise ValueError(
            f"the vectors in {path} have {anchors.vectors.shape[1]} numbers, the embeddings {embedding_size}: make "
            "them with the encoder of the embeddings"
        )
    check_encoder(path, anchors.encoder, encoder)
    return anchors


def encoder_beside(checkpoints: Sequence[str | Path], given: str | Path | None = None) -> Path | None:
    """The file of the encoder that was trained with a classifier: the one that is given, or the one that lies beside
    it, as both toolkits write them (embedding_model.ckpt, model.pt).

    Raises:
        ValueError: the file that is given holds other weights than the one beside the classifier. An .onnx file that
            does not record its weights cannot be compared, and is believed.
    """
    places = [path if path.is_dir() else path.parent for path in map(Path, checkpoints)]
    found = [place / name for place in places for name in ENCODER_FILES if (place / name).is_file()]
    if given is None:
        return found[0] if found else None
    given = Path(given)
    comparable = given.suffix in TORCH_FILES or (given.is_file() and recorded_encoder(given))
    if found and comparable and fingerprint(given) != fingerprint(found[0]):
        raise ValueError(
            f"{given} is not the encoder that was trained with this classifier, which is {found[0]}: give that one, or "
            "none, and it is found"
        )
    return given
