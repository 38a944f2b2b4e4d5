"""Checks of arguments: each error names the value and what to do about it.

On the CPU a bad value raises ValueError at once. On an accelerator, reading a value back would stall the
step, so labels are asserted on the device, and non-finite inputs lead to a nan loss, which gradient scalers
and the toolkits handle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Names = Sequence | np.ndarray | None
EPS = 1e-12  # a smaller norm counts as this one, as in torch.nn.functional.normalize
TINY = 2.0**-40  # float32 represents its square, and that of what is not much smaller
LARGEST_ALPHA = 8.0  # p_j is a power 1/(alpha-1) of a difference, which float64 does not resolve for a larger alpha


def check_alpha(alpha: float) -> float:
    alpha = float(alpha)
    if not (math.isfinite(alpha) and alpha >= 1.0):
        raise ValueError(f"alpha is {alpha}: give a finite alpha >= 1 (1 is the softmax, 2 the sparsemax)")
    if alpha > LARGEST_ALPHA:
        raise ValueError(
            f"alpha is {alpha:g}: give at most {LARGEST_ALPHA:g}; above it float64 cannot resolve the probabilities"
        )
    return alpha


def check_at_least(name: str, value: float, bound: float, *, strict: bool = False) -> float:
    number = _number(value)
    if not math.isfinite(number) or number < bound or (strict and number == bound):
        shown = value if math.isnan(number) else number
        raise ValueError(f"{name} is {shown!r}: give a finite number {'>' if strict else '>='} {bound:g}")
    return number


def check_integer(name: str, value: float, least: int) -> int:
    number = _number(value)
    if not number.is_integer() or number < least:
        raise ValueError(f"{name} is {value!r}: give an integer >= {least}")
    return int(number)


def _number(value: float | str) -> float:
    """The value as a number, which YAML takes for a text if it is written as 1e-3; nan if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def check_share(name: str, value: float, interval: str) -> float:
    """The value as a number in the interval, which is written like "[0, 1)"."""
    value = check_at_least(name, value, 0.0, strict=interval[0] == "(")
    if value > 1.0 or (value == 1.0 and interval[-1] == ")"):
        raise ValueError(f"{name} is {value}: give a number in {interval}")
    return value


def check_tensor(name: str, value: Tensor) -> None:
    """Refuse arrays and lists, which hold no gradient and would fail somewhere inside."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} are given as {type(value).__name__}: give a tensor, such as torch.as_tensor({name})")


def check_labels(labels: Tensor, batch_size: int, num_classes: int, device: torch.device) -> Tensor:
    """Class ids of shape (B,) and any integer dtype, as int64."""
    advice = f"there are {num_classes} classes; check the label encoder and the number of classes"
    kinds = ("label", "class id", "class ids, not scores or one-hot rows")
    return _check_index(labels, batch_size, num_classes, device, kinds, advice)


def check_sample_ids(sample_ids: Tensor, batch_size: int, num_samples: int, device: torch.device) -> Tensor:
    """Ids of training samples, of shape (B,) and any integer dtype, as int64."""
    advice = f"num_samples is {num_samples}; give positions in the training set"
    return _check_index(sample_ids, batch_size, num_samples, device, ("sample id", "id", "sample ids"), advice)


def _check_index(
    index: Tensor, batch_size: int, bound: int, device: torch.device, kinds: tuple[str, str, str], advice: str
) -> Tensor:
    name, one, wanted = kinds
    check_tensor(f"{name.replace(' ', '_')}s", index)
    if index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool:
        raise ValueError(f"{name}s have dtype {index.dtype}: give integer {wanted}")
    if index.shape != (batch_size,):
        raise ValueError(f"{name}s have shape {tuple(index.shape)}: give one {one} per sample, ({batch_size},)")
    if index.device != device:
        raise ValueError(f"{name}s are on {index.device}, the batch on {device}: move the {name}s there")
    index = index.long()  # first: a bound that a small dtype cannot hold would wrap in the comparison
    inside = (index >= 0) & (index < bound)
    if device.type == "cpu":
        if not bool(inside.all()):
            i = int((~inside).nonzero()[0])
            raise ValueError(f"{name} {int(index[i])} of sample {i} is outside 0..{bound - 1}: {advice}")
    else:
        torch._assert_async(inside.all(), f"a {name} is outside 0..{bound - 1}")
    return index


def check_finite(name: str, rows: Tensor) -> None:
    """Refuse nan and inf in a (B, ...) tensor on the CPU; for accelerators see the docstring of this module."""
    if rows.device.type != "cpu" or bool(torch.isfinite(rows).all()):
        return
    i = int((~torch.isfinite(rows.flatten(1)).all(1)).nonzero()[0])
    bad = rows[i][~torch.isfinite(rows[i])][0]
    raise ValueError(
        f"sample {i} has {float(bad)} among its {name}: training has diverged or an input was not finite; "
        "lower the learning rate, or look at that sample"
    )


def check_at_most(name: str, values: Tensor, bound: float, advice: str) -> None:
    """Refuse values (B,) above the bound; on an accelerator, the assertion runs on the device."""
    if values.device.type != "cpu":
        torch._assert_async(~(values > bound).any(), f"{name} is above {bound:g}: {advice}")
    elif bool((above := values > bound).any()):
        raise ValueError(f"{name} is {float(values[above][0]):g}, {advice}")


def check_cosines(cosine: Tensor) -> None:
    """Refuse numbers that cannot be cosines, such as the outputs of a softmax classifier, which would be clamped to
    -1..1 and teach nothing.
    """
    outside = cosine.abs() > 1.01  # more than the rounding of half precision
    if cosine.device.type != "cpu":
        torch._assert_async(~outside.any(), "the loss takes cosines, but was given numbers outside -1..1")
    elif bool(outside.any()):
        raise ValueError(
            f"the cosines hold {float(cosine[outside][0]):g}: the loss takes cosines of embeddings and prototypes; "
            "use it with a classifier that normalises both (SpeechBrain's ECAPA_TDNN.Classifier does)"
        )


def check_norms(norms: Tensor, owner: str = "the embedding of sample", names: Names = None) -> None:
    """Refuse embeddings whose norm (B,) is zero or not finite, if the norms are on the CPU.

    The error calls an embedding by `owner` and its name, which is its position by default.
    """
    if norms.device.type == "cpu" and not bool((measurable := (norms > 0) & torch.isfinite(norms)).all()):
        i = int((~measurable).nonzero()[0])
        more = f" (and {count - 1} more)" if (count := int((~measurable).sum())) > 1 else ""
        raise ValueError(
            f"{owner} {i if names is None else names[i]}{more} has norm {float(norms[i]):g} and so no direction: it is "
            "all zero, holds nan or infinity, or is too small or too large for its dtype; look at what it was made "
            "from"
        )


def directions(f: Tensor, norm: Tensor) -> Tensor:
    """f / |f| for embeddings (..., d) and their norms (...), also where the squares in a tiny norm underflow."""
    scaled = f * torch.where(norm < TINY, TINY**-2, 1.0)[..., None]  # by a power of two, which rounds nothing
    norm = torch.where(norm < TINY, torch.linalg.vector_norm(scaled, dim=-1), norm)
    return scaled / norm[..., None]


def unit_rows(f: Tensor, owner: str, names: Names = None) -> Tensor:
    """Embeddings (..., d) scaled to norm 1, in float32 or float64; refused as by `check_norms`."""
    f = f.to(torch.promote_types(f.dtype, torch.float32))
    norm = torch.linalg.vector_norm(f, dim=-1)
    check_norms(norm.flatten().cpu(), owner, names)
    return directions(f, norm)


def check_training_embeddings(embeddings: Tensor, embedding_size: int, state: Tensor, owner: str) -> Tensor:
    """Embeddings (B, d) in the dtype of `state`, which is float32 or float64.

    They are refused if they are on another device than `state` or, on the CPU, if they are not finite.
    """
    check_tensor("embeddings", embeddings)
    if embeddings.dim() != 2 or embeddings.shape[1] != embedding_size:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}: give (B, {embedding_size})")
    if embeddings.device != state.device:
        raise ValueError(
            f"the embeddings are on {embeddings.device}, the {owner} on {state.device}: move the {owner} with .to(); "
            "in a SpeechBrain recipe, list it under modules"
        )
    if state.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the {owner} is {state.dtype}: keep it in float32; autocast and half-precision embeddings are fine"
        )
    check_finite("embedding values", embeddings)
    return embeddings.to(state.dtype)


def check_pairs(i: Tensor, j: Tensor, num_embeddings: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The positions (P,) of both sides of P pairs among the embeddings, as int64 on the device."""
    i, j = torch.as_tensor(i), torch.as_tensor(j)
    if i.dim() != 1 or i.shape != j.shape:
        raise ValueError(f"i and j have shapes {tuple(i.shape)} and {tuple(j.shape)}: give one of each per pair, (P,)")
    for name, index in (("i", i), ("j", j)):
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise ValueError(f"{name} has dtype {index.dtype}: give positions among the embeddings, as integers")
        index = index.long()  # as in _check_index
        if not bool((inside := (index >= 0) & (index < num_embeddings)).all()):
            p = int((~inside).nonzero()[0])
            raise ValueError(
                f"{name} of pair {p} is {int(index[p])}, and there are {num_embeddings} embeddings: give positions "
                f"among them, 0..{num_embeddings - 1}"
            )
    return i.long().to(device), j.long().to(device)


def check_prototypes(norms: Tensor) -> None:
    """Refuse prototypes whose norm is not finite, given the norms of this step's prototypes, if they are on the CPU."""
    if norms.device.type == "cpu" and not bool((finite := torch.isfinite(norms)).all()):
        i = int((~finite).nonzero()[0])
        raise ValueError(
            f"prototype {i} of this step has norm {float(norms[i])}: training has diverged; go back to a checkpoint "
            "and lower the learning rate"
        )
