"""Quality of stored labels: the teacher's calibration, and the codec's loss. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from distill_cli.cache.plan import typed
from distill_cli.types import ECE_BINS

# Temperatures at which a codec's loss KL(full ‖ stored) is measured.
TEMPERATURES = (1, 2, 4, 8, 20)


@dataclass(frozen=True, kw_only=True)
class TruncationError:
    """A codec's loss at one temperature: KL(full ‖ stored) over all views, nats.

    Attributes:
        mean_kl: Mean over views; 0 for fp32.
        worst_kl: Largest value of a single view.
    """

    mean_kl: float
    worst_kl: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TruncationError:
        """Reads numbers of the same names.

        Raises:
            ValueError: A number is missing or malformed.
        """
        return cls(mean_kl=typed(value, "mean_kl", float), worst_kl=typed(value, "worst_kl", float))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The teacher's confidence against its accuracy, in 15 bins: bin b is (b/15, (b + 1)/15].

    Attributes:
        views: Number of stored views by the confidence of the teacher's answer.
        labelled: Number of views of labelled samples.
        confidence: Sum of the confidences of the labelled views.
        correct: Number of right answers among the labelled views.
    """

    views: tuple[int, ...]
    labelled: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[int, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Reads lists of the same names.

        Raises:
            ValueError: A list is missing or malformed.
        """
        columns = {field.name: tuple(typed(value, field.name, list)) for field in fields(cls)}
        for name, column in columns.items():
            kinds = (int,) if name != "confidence" else (int, float)
            if len(column) != ECE_BINS or not all(
                type(number) in kinds and 0 <= number < math.inf for number in column
            ):
                raise ValueError(f"'calibration.{name}' should hold {ECE_BINS} numbers")
        return cls(**columns)
