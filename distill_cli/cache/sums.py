"""Sums over the views of a shard, or of several, that a cache's figures are computed from. Torch-free.

Each shard carries its own, so that the manifest needs no second look at the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distill_cli.cache.quality import (
    TEMPERATURES,
    Calibration,
    TruncationError,
    check_calibration,
)
from distill_cli.cache.typed_values import typed
from distill_cli.errors import counted
from distill_cli.types import ECE_BINS

# Type and length of each sum; None for a single number.
_KINDS: Mapping[str, tuple[type[int] | type[float], int | None]] = {
    **dict.fromkeys(("rows", "labelled", "correct"), (int, None)),
    **dict.fromkeys(("nll_sum", "entropy_sum"), (float, None)),
    **dict.fromkeys(("bin_views", "bin_count", "bin_correct"), (int, ECE_BINS)),
    "bin_confidence": (float, ECE_BINS),
    **dict.fromkeys(("kl_sum", "kl_max"), (float, len(TEMPERATURES))),
}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums over the views of a shard, or of several.

    Attributes:
        rows: Number of views.
        labelled: Number of views of samples with a label.
        correct: Number of right answers among the labelled views.
        nll_sum: Sum of the NLL over labelled views, nats.
        entropy_sum: Sum of the entropy at T = 1 over all views, nats.
        bin_views: Number of views by confidence: bin b is (b/15, (b+1)/15].
        bin_count: Number of labelled views by bin.
        bin_confidence: Sum of the confidences of labelled views by bin.
        bin_correct: Number of right answers among labelled views by bin.
        kl_sum: Sum of KL(full ‖ stored) at each of `TEMPERATURES`, nats.
        kl_max: Largest KL(full ‖ stored) at each of `TEMPERATURES`, nats.
    """

    rows: int
    labelled: int
    correct: int
    nll_sum: float
    entropy_sum: float
    bin_views: tuple[int, ...]
    bin_count: tuple[int, ...]
    bin_confidence: tuple[float, ...]
    bin_correct: tuple[int, ...]
    kl_sum: tuple[float, ...]
    kl_max: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The sums as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Statistics:
        """The inverse of `to_json`.

        Raises:
            ValueError: A sum is missing, unknown, of another kind, or out of its range.
        """
        if value.keys() != _KINDS.keys():
            raise ValueError(f"'{min(value.keys() ^ _KINDS.keys())}' is missing or unknown")
        values: dict[str, Any] = {}
        for key, (kind, length) in _KINDS.items():
            numbers = [value[key]] if length is None else typed(value, key, list)
            numbers = [typed({key: number}, key, kind) for number in numbers]
            if len(numbers) != (length or 1) or min(numbers) < 0:
                raise ValueError(f"'{key}' should be {counted(length or 1, 'number')} from 0 on")
            values[key] = numbers[0] if length is None else tuple(numbers)
        sums = cls(**values)
        sums.check()
        return sums

    def check(self) -> None:
        """Refuses counts that contradict each other.

        Raises:
            ValueError: With the reason.
        """
        whole = sum(self.bin_views), sum(self.bin_count), sum(self.bin_correct)
        if whole != (self.rows, self.labelled, self.correct):
            raise ValueError("its counts by confidence do not add up to those of all views")
        check_calibration(self.calibration)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / max(1, self.labelled)

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, nats."""
        return self.nll_sum / max(1, self.labelled)

    @property
    def ece(self) -> float:
        """Σ_b (n_b/N)·|accuracy_b − confidence_b| (Guo et al. 2017, eq. 5)."""
        pairs = zip(self.bin_correct, self.bin_confidence, strict=True)
        return math.fsum(abs(right - sure) for right, sure in pairs) / max(1, self.labelled)

    @property
    def entropy(self) -> float:
        """Mean entropy at T = 1, nats."""
        return self.entropy_sum / max(1, self.rows)

    @property
    def calibration(self) -> Calibration:
        """The teacher's confidence against its accuracy."""
        return Calibration(
            views=self.bin_views,
            labelled=self.bin_count,
            confidence=self.bin_confidence,
            correct=self.bin_correct,
        )

    @property
    def truncation_error(self) -> dict[int, TruncationError]:
        """The codec's loss by temperature."""
        return {
            temperature: TruncationError(mean_kl=total / max(1, self.rows), worst_kl=worst)
            for temperature, total, worst in zip(
                TEMPERATURES, self.kl_sum, self.kl_max, strict=True
            )
        }


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of several shards together."""
    return Statistics(
        rows=sum(part.rows for part in parts),
        labelled=sum(part.labelled for part in parts),
        correct=sum(part.correct for part in parts),
        nll_sum=math.fsum(part.nll_sum for part in parts),
        entropy_sum=math.fsum(part.entropy_sum for part in parts),
        bin_views=tuple(map(sum, zip(*(part.bin_views for part in parts), strict=True))),
        bin_count=tuple(map(sum, zip(*(part.bin_count for part in parts), strict=True))),
        bin_confidence=_columns(part.bin_confidence for part in parts),
        bin_correct=tuple(map(sum, zip(*(part.bin_correct for part in parts), strict=True))),
        kl_sum=_columns(part.kl_sum for part in parts),
        kl_max=tuple(map(max, zip(*(part.kl_max for part in parts), strict=True))),
    )


def _columns(rows: Any) -> tuple[float, ...]:
    return tuple(map(math.fsum, zip(*rows, strict=True)))
