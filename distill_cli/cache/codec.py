"""Codecs: logits to stored tensors and back. Shapes: N rows, K classes.

A codec is chosen by its spelled name, which is part of a cache's plan.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.plan import FORMAT_VERSION, Plan
from distill_cli.cache.rows import Codec, Layout, Rows, not_finite, refuse_bad
from distill_cli.cache.safetensors_header import Header
from distill_cli.cache.topk import TopK
from distill_cli.errors import UsageError, counted, nearest

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
        refuse_bad(logits_NK)
        limit = torch.finfo(self.dtype).max
        if self.dtype != torch.float32 and logits_NK.abs().amax() > limit:
            peak_N1 = logits_NK.amax(dim=-1, keepdim=True)
            logits_NK = torch.where(peak_N1 > limit, logits_NK - peak_N1, logits_NK)
            logits_NK = logits_NK.clamp(min=-limit)
        return {"logits": logits_NK.to(device="cpu", dtype=self.dtype).contiguous()}

    def fault(self, rows: Rows) -> str | None:
        """A phrase about NaN or infinity; None where there is neither."""
        return not_finite(rows, "logits")

    def logits(self, rows: Rows) -> Tensor:
        """Widens to fp32, which is exact."""
        return rows["logits"].float()

    def log_probs(
        self, rows: Rows, temperature: float, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """log softmax(v/T)."""
        return F.log_softmax(rows["logits"].to(dtype) / temperature, dim=-1)


_DENSE = {
    name: Dense(name=name, dtype=dtype)
    for name, dtype in (
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
    )
}


def codec(name: str, classes: int, format_version: int = FORMAT_VERSION) -> Codec:
    """The codec of this name for so many classes; topk:J with J ≥ classes is fp16.

    Dense codecs are the same in every version of the format.

    Raises:
        UsageError: There is no such codec.
    """
    match = re.fullmatch(rf"{TOP}([1-9]\d{{0,5}})", name, re.ASCII)
    if match is not None:
        if int(match[1]) < classes:
            sloped = format_version > 1
            return TopK(name=name, kept=int(match[1]), classes=classes, sloped=sloped)
        name = "fp16"
    if name not in _DENSE:
        raise UsageError(f"unknown codec '{name}'", hint=nearest(name, [*_DENSE, f"{TOP}10"]))
    return replace(_DENSE[name], classes=classes)


def codec_of(plan: Plan) -> Codec:
    """The codec of a plan, in its format.

    Raises:
        UsageError: There is no such codec.
    """
    return codec(plan.codec, len(plan.dataset.class_names), plan.format_version)


def bytes_per_row(codec: Codec) -> int:
    """Bytes of the stored tensors for one view of one sample."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in codec.layout(1).values())


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
