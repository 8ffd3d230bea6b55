"""What a manifest says of the labels: calibration, and what the codec lost. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from distill_cli.cache.plan import typed
from distill_cli.types import ECE_BINS

# Of KL(full ‖ stored), the cost of a codec.
TEMPERATURES = (1, 2, 4, 8, 20)


@dataclass(frozen=True, kw_only=True)
class TruncationError:
    """What a codec lost at one temperature: KL(full ‖ stored) over all views, nats.

    Attributes:
        mean_kl: Over views; 0 for fp32.
        worst_kl: Of a single view.
    """

    mean_kl: float
    worst_kl: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TruncationError:
        """From numbers of the same names; ValueError where they are malformed."""
        return cls(mean_kl=typed(value, "mean_kl", float), worst_kl=typed(value, "worst_kl", float))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often the teacher is as sure as it says, in 15 bins: bin b is (b/15, (b + 1)/15].

    Attributes:
        views: Stored views by the confidence of the teacher's answer.
        labelled: Those of labelled samples.
        confidence: Sum of the confidences of the labelled ones.
        correct: Right answers among the labelled ones.
    """

    views: tuple[int, ...]
    labelled: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[int, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """From lists of the same names.

        Raises:
            ValueError: It is malformed.
        """
        found = {field.name: tuple(typed(value, field.name, list)) for field in fields(cls)}
        for name, column in found.items():
            kinds = (int,) if name != "confidence" else (int, float)
            if len(column) != ECE_BINS or not all(
                type(number) in kinds and 0 <= number < math.inf for number in column
            ):
                raise ValueError(f"'calibration.{name}' should hold {ECE_BINS} numbers")
        return cls(**found)
