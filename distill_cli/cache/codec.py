"""How logits become stored tensors and back. Shapes: N rows, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distill_cli.errors import UsageError, nearest


class Codec(Protocol):
    """One way of storing labels; the name is part of the plan."""

    @property
    def name(self) -> str:
        """As `--codec` spells it."""

    @property
    def exact(self) -> bool:
        """Whether fp32 logits come back to the bit."""

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """Tensors to store, each with N rows."""

    def decode(self, stored: dict[str, Tensor]) -> Tensor:
        """fp32 logits (N, K) of stored rows."""


@dataclass(frozen=True)
class Dense:
    """All K logits, in one floating-point type.

    Below fp32 each row is first shifted by its maximum. Softmax does not see the shift, and
    what is then large and coarsely rounded is the tail, whose probabilities are tiny; nothing
    overflows towards +∞, and what falls below the type's range is clamped to it.
    """

    name: str
    dtype: torch.dtype

    @property
    def exact(self) -> bool:
        """fp32 is."""
        return self.dtype == torch.float32

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """One tensor, `logits`."""
        if self.exact:
            return {"logits": logits_NK.contiguous()}
        shifted_NK = logits_NK - logits_NK.amax(dim=1, keepdim=True)
        lowest = torch.finfo(self.dtype).min
        return {"logits": shifted_NK.clamp(min=lowest).to(self.dtype).contiguous()}

    def decode(self, stored: dict[str, Tensor]) -> Tensor:
        """The logits, or what is left of them."""
        return stored["logits"].float()


CODECS: dict[str, Codec] = {
    "fp32": Dense("fp32", torch.float32),
    "fp16": Dense("fp16", torch.float16),
    "bf16": Dense("bf16", torch.bfloat16),
}


def codec(name: str) -> Codec:
    """The codec of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in CODECS:
        raise UsageError(f"codec: unknown '{name}'. {nearest(name, CODECS)}")
    return CODECS[name]
