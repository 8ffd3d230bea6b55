"""Rows of stored tensors, and what a codec does with them. Shapes: N rows, K classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from distill_cli.errors import ArtifactError

# Elements of one fp64 working tensor, 1 MB: several lie in a processor's cache.
CHUNK = 1 << 17

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


def not_finite(rows: Rows, name: str) -> str | None:
    """A phrase about NaN or infinity in a tensor; None where there is neither."""
    values = rows[name]
    if all(bool(values[chunk].isfinite().all()) for chunk in in_chunks(values)):
        return None
    return f"'{name}' holds NaN or infinity"


def in_chunks(logits_NK: Tensor) -> list[slice]:
    """Slices of consecutive rows whose fp64 copies stay small."""
    rows, size = len(logits_NK), max(1, CHUNK // max(1, logits_NK[:1].numel()))
    return [slice(start, start + size) for start in range(0, rows, size)]


def first_bad_row(logits_NK: Tensor) -> int | None:
    """The first row with NaN or infinity; None where all are finite."""
    if bool(logits_NK.isfinite().all()):
        return None
    return int((~logits_NK.isfinite()).any(dim=-1).nonzero()[0])


def refuse_bad(logits_NK: Tensor) -> None:
    """Refuses logits that no codec can store.

    Raises:
        ArtifactError: A logit is NaN or infinite; the message names the first such row.
    """
    bad = first_bad_row(logits_NK)
    if bad is not None:
        raise ArtifactError(f"the logits of row {bad} are NaN or infinite")
