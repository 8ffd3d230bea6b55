"""Codecs: logits to stored tensors and back. Shapes: N rows, K classes, J classes kept of each row.

A codec is chosen by its spelled name, which is part of a cache's plan.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.safetensors_header import Header
from distill_cli.errors import ArtifactError, UsageError, counted, nearest

# torch's types as safetensors spells them.
SPELLED = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.int32: "I32",
}
TOP = "topk:"
# Temperatures at which a top-k row stores the mass of its tail.
TAIL_TEMPERATURES = (1, 2, 4, 8)
# Elements of one fp64 working tensor, 8 MB.
CHUNK = 1 << 20

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
Rows = Mapping[str, Tensor]


class Codec(Protocol):
    """Turns logits into row-wise tensors (the first dimension is N) and back."""

    @property
    def name(self) -> str:
        """Name as the user spells it."""

    @property
    def dense(self) -> bool:
        """Whether it keeps a logit of every class."""

    def layout(self, rows: int) -> Layout:
        """Type and shape of each tensor that `encode` makes of so many rows."""

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """The tensors to store, contiguous, on the CPU.

        Raises:
            ArtifactError: A logit is NaN or infinite.
        """

    def fault(self, rows: Rows) -> str | None:
        """The first thing in the rows that no encoder would have written; None where all is well."""

    def logits(self, rows: Rows) -> Tensor | None:
        """fp32 logits_NK from stored rows; None where the codec does not keep them all."""

    def log_probs(
        self, rows: Rows, temperature: float, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """log softmax at any temperature, (N, K), from stored rows, computed in `dtype`."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """All logits, in one floating-point type.

    fp32 keeps the teacher's logits to the bit. A row whose largest logit does not fit the type
    (65504 for fp16) is shifted so that its largest logit is 0: softmax does not see a shift, at
    any temperature. A logit below the type's range (a class masked by −1e9) becomes the lowest
    finite number, a probability of 0 all the same. Rows that fit are only rounded.
    """

    name: str
    dtype: torch.dtype
    classes: int = 0
    dense: bool = True

    def layout(self, rows: int) -> Layout:
        """The one tensor `logits`."""
        return {"logits": (self.dtype, (rows, self.classes))}

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """The logits rounded to the nearest number of the type."""
        _refuse_bad(logits_NK)
        limit = torch.finfo(self.dtype).max
        if self.dtype != torch.float32 and logits_NK.abs().amax() > limit:
            peak_N1 = logits_NK.amax(dim=-1, keepdim=True)
            logits_NK = torch.where(peak_N1 > limit, logits_NK - peak_N1, logits_NK)
            logits_NK = logits_NK.clamp(min=-limit)
        return {"logits": logits_NK.to(device="cpu", dtype=self.dtype).contiguous()}

    def fault(self, rows: Rows) -> str | None:
        """A phrase about NaN or infinity; None where there is neither."""
        return _not_finite(rows, "logits")

    def logits(self, rows: Rows) -> Tensor:
        """Widens to fp32, which is exact."""
        return rows["logits"].float()

    def log_probs(
        self, rows: Rows, temperature: float, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """log softmax(v/T)."""
        return F.log_softmax(rows["logits"].to(dtype) / temperature, dim=-1)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The J largest log-probabilities with their class ids, and the mass of all others.

    A row stores `log_probs`, at T = 1, fp16, falling; `ids`, in the smallest type that holds the
    class count; `tail`, the logit log(m/(1 − m)) of the mass m of the other K − J classes at each
    of `TAIL_TEMPERATURES`, fp16. At another T the tail's logit is interpolated linearly in 1/T
    between those and the exact (K − J)/K at 1/T = 0 (below T = 1 the last line goes on). The tail
    is shared out evenly over its classes; the rest of the mass goes to the J classes in proportion
    to p^(1/T). The result sums to 1 at every temperature.

    FKD (Shen & Xing 2022, arXiv 2112.01528) and TinyViT (arXiv 2207.10666) keep the mass at T = 1
    only, and a uniform tail softened from there is too heavy.
    """

    name: str
    kept: int
    classes: int
    dense: bool = False

    @property
    def id_type(self) -> torch.dtype:
        """uint8 up to 256 classes, uint16 up to 65,536, else int32."""
        if self.classes <= 1 << 8:
            return torch.uint8
        return torch.uint16 if self.classes <= 1 << 16 else torch.int32

    def layout(self, rows: int) -> Layout:
        """The tensors `log_probs`, `ids` and `tail`."""
        return {
            "log_probs": (torch.float16, (rows, self.kept)),
            "ids": (self.id_type, (rows, self.kept)),
            "tail": (torch.float16, (rows, len(TAIL_TEMPERATURES))),
        }

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """Chooses the largest; among equal ones the smaller id stands first."""
        _refuse_bad(logits_NK)
        logits_NK = logits_NK.cpu()
        parts = [self._encoded(logits_NK[rows]) for rows in in_chunks(logits_NK)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encoded(self, logits_NK: Tensor) -> dict[str, Tensor]:
        ids_NJ = self._largest(logits_NK)
        full_NK = logits_NK.double()
        log_probs_NK = F.log_softmax(full_NK, dim=-1)
        others_NK = full_NK.scatter(1, ids_NJ, -math.inf)
        kept_NJ = full_NK.gather(1, ids_NJ)
        tail = [
            torch.logsumexp(others_NK / t, dim=-1) - torch.logsumexp(kept_NJ / t, dim=-1)
            for t in TAIL_TEMPERATURES
        ]
        return {
            "log_probs": _half(log_probs_NK.gather(1, ids_NJ)),
            "ids": ids_NJ.to(self.id_type),
            "tail": _half(torch.stack(tail, dim=1)),
        }

    def _largest(self, logits_NK: Tensor) -> Tensor:
        """The ids of the J largest logits, falling; of equal ones the smallest ids."""
        ids_NJ = logits_NK.topk(self.kept, dim=-1).indices.sort(dim=-1).values
        values_NJ = logits_NK.gather(1, ids_NJ)
        order_NJ = values_NJ.sort(dim=-1, descending=True, stable=True).indices
        ids_NJ = ids_NJ.gather(1, order_NJ)
        # topk breaks ties arbitrarily; break them by class id.
        tied_N = (logits_NK >= values_NJ.amin(dim=-1, keepdim=True)).sum(dim=-1) > self.kept
        if tied_N.any():
            sorted_NK = logits_NK[tied_N].sort(dim=-1, descending=True, stable=True)
            ids_NJ[tied_N] = sorted_NK.indices[:, : self.kept]
        return ids_NJ

    def fault(self, rows: Rows) -> str | None:
        """A phrase about NaN, infinity or a class id beyond the class count; None without any."""
        ids_NJ = rows["ids"].numpy()
        if ids_NJ.size and not 0 <= int(ids_NJ.min()) <= int(ids_NJ.max()) < self.classes:
            return f"it names classes beyond {self.classes}"
        return _not_finite(rows, "log_probs") or _not_finite(rows, "tail")

    def logits(self, rows: Rows) -> None:
        """None: the logits of the tail are lost."""

    def log_probs(
        self, rows: Rows, temperature: float, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The full distribution over K classes."""
        log_odds_N1 = self._tail(rows["tail"].to(dtype), 1 / temperature)[:, None]
        kept_NJ = F.log_softmax(rows["log_probs"].to(dtype) / temperature, dim=-1)
        kept_NJ = kept_NJ + F.logsigmoid(-log_odds_N1)
        other_N1 = F.logsigmoid(log_odds_N1) - math.log(self.classes - self.kept)
        return other_N1.repeat(1, self.classes).scatter(1, rows["ids"].long(), kept_NJ)

    def _tail(self, tail_NT: Tensor, inverse: float) -> Tensor:
        """The logit of the tail's mass at 1/T = `inverse`, (N)."""
        uniform = math.log((self.classes - self.kept) / self.kept)
        inverses = [0.0, *sorted(1 / t for t in TAIL_TEMPERATURES)]
        known = [torch.full_like(tail_NT[:, 0], uniform), *reversed(tail_NT.unbind(dim=1))]
        right = next((i for i, x in enumerate(inverses) if x >= inverse and i), len(inverses) - 1)
        left = right - 1
        share = (inverse - inverses[left]) / (inverses[right] - inverses[left])
        return known[left] + share * (known[right] - known[left])


def _half(values: Tensor) -> Tensor:
    """fp16; values beyond its range (a class masked by −1e9) become its bound."""
    limit = torch.finfo(torch.float16).max
    return values.clamp(-limit, limit).half().contiguous()


def _not_finite(rows: Rows, name: str) -> str | None:
    values = rows[name]
    if all(bool(values[chunk].isfinite().all()) for chunk in in_chunks(values)):
        return None
    return f"'{name}' holds NaN or infinity"


def in_chunks(logits_NK: Tensor) -> list[slice]:
    """Slices of consecutive rows whose fp64 copies stay small."""
    rows, size = len(logits_NK), max(1, CHUNK // logits_NK.shape[1])
    return [slice(start, start + size) for start in range(0, rows, size)]


_DENSE = {
    name: Dense(name=name, dtype=dtype)
    for name, dtype in (
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
    )
}


def codec(name: str, classes: int) -> Codec:
    """The codec of this name for so many classes; topk:J with J ≥ classes is fp16.

    Raises:
        UsageError: There is no such codec.
    """
    match = re.fullmatch(rf"{TOP}([1-9]\d{{0,5}})", name, re.ASCII)
    if match is not None:
        if int(match[1]) < classes:
            return TopK(name=name, kept=int(match[1]), classes=classes)
        name = "fp16"
    if name not in _DENSE:
        raise UsageError(f"unknown codec '{name}'", hint=nearest(name, [*_DENSE, f"{TOP}10"]))
    return replace(_DENSE[name], classes=classes)


def bytes_per_row(codec: Codec) -> int:
    """Bytes of the stored tensors for one view of one sample."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in codec.layout(1).values())


def first_bad_row(logits_NK: Tensor) -> int | None:
    """The first row with NaN or infinity; None where all are finite."""
    if bool(logits_NK.isfinite().all()):
        return None
    return int((~logits_NK.isfinite()).any(dim=-1).nonzero()[0])


def _refuse_bad(logits_NK: Tensor) -> None:
    bad = first_bad_row(logits_NK)
    if bad is not None:
        raise ArtifactError(f"the logits of row {bad} are NaN or infinite")


def layout_fault(header: Header, layout: Layout) -> str | None:
    """The first difference of a file's tensors from the plan's layout; None where there is none."""
    if header.spans.keys() != layout.keys():
        return f"it holds {sorted(header.spans)}, not {sorted(layout)}"
    for name, (dtype, shape) in layout.items():
        span = header.spans[name]
        if (span.dtype, span.shape) != (SPELLED[dtype], shape):
            return f"'{name}' is {span.dtype} {span.shape}, not {SPELLED[dtype]} {shape}"
        if span.stop - span.start != math.prod(shape) * dtype.itemsize:
            return f"'{name}' has {counted(span.stop - span.start, 'byte')}"
        if span.start % dtype.itemsize:
            return f"'{name}' is not aligned"
    return None
