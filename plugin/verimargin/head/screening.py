"""Screening: the logits in a low precision, with a proven bound of their error (mathematics, section 5).

Most classes can be ruled out without their logits being known. Those of the others are computed in full precision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from .product import GROUP, entries_above, largest, leading
from .threshold import Candidates

SCREENING = ("auto", "off", "float16", "bfloat16", "int8")
UNIT_ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST_NORMAL = {torch.float16: 2.0**-14, torch.bfloat16: 2.0**-126}  # a processor may replace less than this by 0
LEVELS = 127  # int8 holds -127..127
SMALLEST_STEP = 1e-30  # the inverse of an int8 step must be a finite float32
LARGEST_SCALE = 2.0**12  # far from the largest float16
LEAST_BATCH = 192  # samples from which on rounding the prototypes costs less than the int8 product saves on a CPU


def check_screening(name: str) -> str:
    if name not in SCREENING:
        raise ValueError(f"screening is {name!r}: give one of {', '.join(map(repr, SCREENING))}")
    return name


def screening_type(name: str, unit: Tensor, scale: float) -> torch.dtype | None:
    """The type in which a batch of unit embeddings is screened, or None to multiply in the embeddings' own precision.

    "auto" asks the device: a GPU with tensor cores multiplies float16 some 15 times as fast as float32, and a CPU with
    VNNI instructions int8 four times as fast. Other CPUs gain nothing from a lower precision, not even all of
    those that have instructions for bfloat16.

    Raises:
        ValueError: the device does not multiply the named type, or it cannot hold the logits.
    """
    if name == "off":
        return None
    if name != "auto":
        wanted: torch.dtype = getattr(torch, name)
        if reason := _obstacle(wanted, unit, scale):
            raise ValueError(f"screening is {name!r}, but {reason}: give 'auto', or 'off'")
        return wanted
    if unit.dtype != torch.float32:
        return None
    wanted = torch.int8 if unit.device.type == "cpu" else torch.float16
    pays = unit.device.type != "cpu" or len(unit) >= LEAST_BATCH
    return wanted if pays and not _obstacle(wanted, unit, scale) else None


def _obstacle(dtype: torch.dtype, unit: Tensor, scale: float) -> str | None:
    """Why this type cannot screen the batch, or None. The device must sum the products in float32 or int32."""
    device, size = unit.device, unit.shape[1]
    if dtype == torch.int8 and size == 1:
        return "torch's int8 product of rows of one number is wrong"
    if dtype == torch.int8 and size * LEVELS**2 >= 2**31:
        return f"the products of {size} numbers overflow int32"
    if dtype == torch.float16 and scale > LARGEST_SCALE:
        return f"float16 cannot hold logits with the scale {scale:g}"
    return None if _multiplies(device, dtype) else f"this device ({device}) does not multiply it"


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type == "cpu":
        if dtype == torch.int8:  # without these instructions, int8 products are summed in int16, which overflows
            return _says_yes(torch.cpu, "_is_vnni_supported")
        return _says_yes(torch.ops.mkldnn, f"_is_mkldnn_{'fp16' if dtype == torch.float16 else 'bf16'}_supported")
    if device.type != "cuda" or dtype == torch.int8 or not _MM_RETURNS_FLOAT32:
        return False
    if dtype == torch.float16 and getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", False):
        return False
    return torch.cuda.get_device_capability(device) >= ((7, 0) if dtype == torch.float16 else (8, 0))


def _says_yes(module: object, question: str) -> bool:
    """The answer of a private function of torch; no if this torch does not have it."""
    ask = getattr(module, question, None)
    return ask is not None and bool(ask())


# Before torch 2.8, a half-precision product on a GPU could also sum in half precision, for which no bound is known.
_MM_RETURNS_FLOAT32 = hasattr(torch.ops.aten.mm, "dtype")


class Screen(ABC):
    """The logits of chunks of classes from a product of rounded unit rows, and the bound of their error.

    Args: as for `Product`.

    Attributes:
        step: (B,), what the numbers of a chunk have to be multiplied by to become logits.
        residual: (C K,), |w/|w| - w^|, or a number that is not below it, of the chunks that were asked for.
        offset, gain: (B,), such that the error of a logit is at most offset_i + gain_i residual_j.
    """

    step: Tensor
    offset: Tensor
    gain: Tensor
    residual: Tensor

    def __init__(self, unit: Tensor, weight: Tensor, norm: Tensor, scale: float, chunk: int, subcenters: int = 1):
        self.unit, self.weight, self.norm, self.scale, self.subcenters = unit, weight, norm, scale, subcenters
        self.prepare(chunk * subcenters)

    @abstractmethod
    def prepare(self, chunk: int) -> None:
        """Round the embeddings, bound their errors, and allocate the memory of a chunk of prototypes."""

    @abstractmethod
    def __call__(self, start: int, stop: int) -> Tensor:
        """The logits (B, stop - start) of these prototypes, in steps of their row; the next call overwrites them."""

    def above(self, start: int, stop: int, bound: Tensor) -> Candidates:
        """The entries of a chunk of classes that may be above the bound (B,) of their row, with the largest possible
        logits.
        """
        first, last = start * self.subcenters, stop * self.subcenters
        logit = largest(self(first, last), self.subcenters)
        group = GROUP * self.subcenters
        residual = F.pad(self.residual[first:last], (0, (first - last) % group)).unflatten(0, (-1, group)).amax(1)
        lowest = torch.addr((bound - self.offset)[:, None], self.gain, residual, alpha=-1)
        row, column, logit = entries_above(logit, lowest / self.step[:, None])
        column += start
        return Candidates(row, column, logit * self.step[row] + self.error(row, column)).above(bound)

    def error(self, row: Tensor, column: Tensor) -> Tensor:
        """The largest possible error of the logits of these pairs of a sample and a class."""
        return self.offset[row] + self.gain[row] * self.residual.view(-1, self.subcenters)[column].amax(1)

    def set_error(self, rounded: Tensor, output_roundoff: float) -> None:
        """Set offset and gain for the embeddings that are multiplied.

        |<e, w> - <e^, w^>| <= |e - e^| |w| + |e^| |w - w^|, by Cauchy and Schwarz. To this come the roundings of the
        product itself, relative to |e^| |w^|: each of d additions in float32, however they are ordered, and the
        rounding of the result. All is rounded up, by much more than computing these numbers can have rounded it down.
        """
        lost = torch.linalg.vector_norm(self.unit - rounded, dim=1)
        kept = torch.linalg.vector_norm(rounded, dim=1)
        additions = (self.unit.shape[1] + 16) * 2.0**-23
        self.offset = self.scale * (1.0001 * lost + 1.01 * (2.0 * additions + output_roundoff) * kept + 1e-6)
        self.gain = 1.0001 * self.scale * kept


class HalfScreen(Screen):
    """A product in float16 or bfloat16, which a matrix unit sums in float32.

    The rows are scaled before they are rounded, so that the product of the scales is s, and so that what a processor
    may flush to 0 is small.
    """

    dtype: torch.dtype
    lift = 8.0  # of the prototypes; that of the embeddings is s / 8

    def prepare(self, chunk: int) -> None:
        roundoff, flushed = UNIT_ROUNDOFF[self.dtype], SMALLEST_NORMAL[self.dtype]
        lift, size = self.lift, self.unit.shape[1]
        self.rows = self.unit.new_empty(chunk * size, dtype=self.dtype)
        self.returns_float32 = self.unit.device.type == "cuda"
        dtype = torch.float32 if self.returns_float32 else self.dtype
        self.logit = self.unit.new_empty(len(self.unit) * chunk, dtype=dtype)
        self.left = (self.unit * (self.scale / lift)).to(self.dtype)
        self.step = self.unit.new_ones(len(self.unit))
        seen = torch.where(self.left.abs() < flushed, 0.0, self.left.to(self.unit.dtype))
        self.set_error(seen * (lift / self.scale), 0.0 if self.returns_float32 else roundoff)
        # relative to a unit row: half a unit in the last place of each number, or all of a number that is flushed
        self.residual = self.unit.new_full((1,), 1.001 * roundoff + math.sqrt(size) * flushed / lift)
        self.residual = self.residual.expand(len(self.weight))

    def __call__(self, start: int, stop: int) -> Tensor:
        rows = leading(self.rows, stop - start, self.weight.shape[1])
        torch.mul(self.weight[start:stop], (self.lift / self.norm[start:stop])[:, None], out=rows)
        logit = leading(self.logit, len(self.unit), stop - start)
        if self.returns_float32:
            return torch.mm(self.left, rows.t(), out_dtype=torch.float32, out=logit)
        return torch.mm(self.left, rows.t(), out=logit)


class Float16Screen(HalfScreen):
    dtype = torch.float16


class BFloat16Screen(HalfScreen):
    dtype = torch.bfloat16


class Int8Screen(Screen):
    """A product in int8 with one step per row, which is summed in int32, without any error of its own."""

    def prepare(self, chunk: int) -> None:
        size = self.unit.shape[1]
        self.scaled = self.unit.new_empty(chunk * size)
        self.rows = self.unit.new_empty(chunk * size, dtype=torch.int8)
        self.total = self.unit.new_empty(len(self.unit) * chunk, dtype=torch.int32)
        self.logit = self.unit.new_empty(len(self.unit) * chunk)
        self.residual = self.unit.new_empty(len(self.weight))
        self.left = torch.empty_like(self.unit, dtype=torch.int8)
        step = self._round(self.unit, torch.empty_like(self.unit), self.left)
        self.set_error(self.left * step[:, None], 0.0)
        self.step = step * self.scale

    def __call__(self, start: int, stop: int) -> Tensor:
        part, norm = self.weight[start:stop], self.norm[start:stop]
        rows = leading(self.rows, *part.shape)
        step = self._round(part, leading(self.scaled, *part.shape), rows) / norm
        # half a step of each number; the little more is for the rounding of the scaled numbers
        torch.mul(step, 0.501 * math.sqrt(part.shape[1]), out=self.residual[start:stop])
        total = torch._int_mm(self.left, rows.t(), out=leading(self.total, len(self.unit), stop - start))
        return leading(self.logit, *total.shape).copy_(total).mul_(step)

    @staticmethod
    def _round(x: Tensor, scaled: Tensor, rounded: Tensor) -> Tensor:
        """Round the rows of x to `rounded`, and return the step (n,) of each: x is about step * rounded."""
        step = torch.maximum(x.amax(1), -x.amin(1)).div_(LEVELS).clamp_min_(SMALLEST_STEP)
        rounded.copy_(torch.mul(x, step.reciprocal()[:, None], out=scaled).round_())
        return step


SCREENS: dict[torch.dtype, type[Screen]] = {
    torch.float16: Float16Screen,
    torch.bfloat16: BFloat16Screen,
    torch.int8: Int8Screen,
}
