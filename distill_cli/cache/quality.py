"""Quality of stored labels: the teacher's calibration, and the codec's loss. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from distill_cli.cache.typed_values import typed
from distill_cli.types import ECE_BINS

# Temperatures at which a codec's loss KL(full ‖ stored) is measured.
TEMPERATURES = (1, 2, 4, 8, 20)
# Share by which figures and the sums in fp64 that they are of may differ.
ROUNDING = 1e-6


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
            ValueError: A number is missing or malformed, or no such divergence can be.
        """
        mean_kl, worst_kl = typed(value, "mean_kl", float), typed(value, "worst_kl", float)
        check_range("mean_kl", mean_kl, 0, worst_kl)
        return cls(mean_kl=mean_kl, worst_kl=worst_kl)


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
        calibration = cls(**columns)
        check_calibration(calibration)
        return calibration


def check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuses a figure that cannot be, up to rounding.

    Raises:
        ValueError: With the figure.
    """
    if not least - ROUNDING <= value <= most + ROUNDING * max(1, abs(most)):
        bound = f"from {least:g} on" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"'{name}' should be {bound}, is {value:g}")


def check_calibration(bins: Calibration) -> None:
    """Refuses counts that cannot be: more right answers than labels, more labels than views.

    Raises:
        ValueError: With the bin.
    """
    columns = zip(bins.views, bins.labelled, bins.confidence, bins.correct, strict=True)
    for number, (views, labelled, confidence, correct) in enumerate(columns):
        if not max(correct, confidence * (1 - ROUNDING)) <= labelled <= views:
            raise ValueError(
                f"'calibration' has {correct} right of {labelled} labelled of {views} views, with a "
                f"confidence of {confidence:g} in all, in bin {number}"
            )
