"""Ratios on a noisy machine: two things take turns, and the median of their ratios counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

# One turn: runs for about the same work each time and says its rate, in images a second.
Turn = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """Measurements of a pair.

    Attributes:
        ours: Median rate of the first.
        other: Median rate of the second.
        ratios: Ratio of each pair of neighbouring turns.
    """

    ours: float
    other: float
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return low, high


def interleaved(ours: Turn, other: Turn, pairs: int) -> Ratio:
    """`pairs` turns of each after one turn of each to warm up; who goes first alternates."""
    ours()
    other()
    rates: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            second = other()
            rates.append((ours(), second))
        else:
            first = ours()
            rates.append((first, other()))
    return Ratio(
        statistics.median(first for first, _ in rates),
        statistics.median(second for _, second in rates),
        tuple(first / second for first, second in rates),
    )
