"""How logits become bytes and come back. Shapes: N rows, K classes.

A codec is chosen by its spelled name, which is part of a cache's plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distill_cli.cache.header import Header
from distill_cli.errors import ArtifactError, UsageError, nearest

# torch's types as safetensors spells them.
SPELLED = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class Codec(Protocol):
    """Turns logits into row-wise tensors (the first dimension is N) and back."""

    @property
    def name(self) -> str:
        """As the user spells it."""

    def layout(self, rows: int, classes: int) -> Layout:
        """Type and shape of each tensor that `encode` makes of (rows, classes) logits."""

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """The tensors to store, contiguous, on the CPU.

        Raises:
            ArtifactError: A logit is NaN or infinite.
        """

    def decode(self, rows: Mapping[str, Tensor]) -> Tensor:
        """logits_NK, fp32, from the stored tensors or any rows gathered from them."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """All logits, in one floating-point type.

    fp32 is what the teacher said, to the bit. A row whose largest logit does not fit the type
    (65504 for fp16) is shifted so that its largest logit is 0: softmax does not see a shift, at
    any temperature. A logit below the type's range (a class masked by −1e9) becomes the lowest
    finite number, a probability of 0 all the same. Rows that fit are only rounded.
    """

    name: str
    dtype: torch.dtype

    def layout(self, rows: int, classes: int) -> Layout:
        """One tensor."""
        return {"logits": (self.dtype, (rows, classes))}

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """Rounds to the nearest."""
        bad = first_bad_row(logits_NK)
        if bad is not None:
            raise ArtifactError(f"the logits of row {bad} are NaN or infinite")
        limit = torch.finfo(self.dtype).max
        if self.dtype != torch.float32 and logits_NK.abs().amax() > limit:
            peak_N1 = logits_NK.amax(dim=-1, keepdim=True)
            logits_NK = torch.where(peak_N1 > limit, logits_NK - peak_N1, logits_NK)
            logits_NK = logits_NK.clamp(min=-limit)
        return {"logits": logits_NK.to(device="cpu", dtype=self.dtype).contiguous()}

    def decode(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Widens to fp32, which is exact."""
        return rows["logits"].float()


_DENSE = {
    name: Dense(name=name, dtype=dtype)
    for name, dtype in (
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
    )
}


def codec(name: str) -> Codec:
    """The codec of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in _DENSE:
        raise UsageError(f"unknown codec '{name}'", hint=nearest(name, _DENSE))
    return _DENSE[name]


def first_bad_row(logits_NK: Tensor) -> int | None:
    """The first row with NaN or infinity; None where all are finite."""
    if bool(logits_NK.isfinite().all()):
        return None
    return int((~logits_NK.isfinite()).any(dim=-1).nonzero()[0])


def layout_fault(header: Header, layout: Layout) -> str | None:
    """How a file's tensors differ from what the plan says it holds; None where they do not."""
    if header.spans.keys() != layout.keys():
        return f"it holds {sorted(header.spans)}, not {sorted(layout)}"
    for name, (dtype, shape) in layout.items():
        span = header.spans[name]
        if (span.dtype, span.shape) != (SPELLED[dtype], shape):
            return f"'{name}' is {span.dtype} {span.shape}, not {SPELLED[dtype]} {shape}"
        if span.stop - span.start != math.prod(shape) * dtype.itemsize:
            return f"'{name}' has {span.stop - span.start} bytes"
        if span.start % dtype.itemsize:
            return f"'{name}' is not aligned"
    return None
