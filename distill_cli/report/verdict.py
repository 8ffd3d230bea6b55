"""Did it help? Said in words, and only as surely as the seeds allow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
# Two differences give an interval of no use: Student's t with one degree of freedom is 12.7.
FEWEST = 3
Kind = Literal["helped", "did not help", "cannot be told"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether distillation changed the number of test errors.

    Attributes:
        kind: What can be said.
        sentence: The same in words, with its figures.
        difference: Mean of distilled − hard errors; negative is better.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end; None where there is none.
        seeds: Pairs compared.
    """

    kind: Kind
    sentence: str
    difference: float
    low: float | None
    high: float | None
    seeds: int


def verdict(hard: Sequence[float], distilled: Sequence[float]) -> Verdict:
    """Compares errors pairwise, seed by seed, by Student's t at 95 %.

    Runs of one seed share initial weights (where the network is the same) and data order, which
    takes their spread out of the difference. It "helped" if the interval of the mean
    difference lies below zero, "did not help" if it lies above; otherwise it cannot be told.
    The seeds vary, the test images and the teachers do not: the verdict is about these. Several
    verdicts beside each other are not corrected for their number.

    Args:
        hard: Test errors on hard labels, one a seed.
        distilled: Test errors of the distilled student, in the same order of seeds.
    """
    differences = [float(d) - float(h) for h, d in zip(hard, distilled, strict=True)]
    seeds = len(differences)
    mean = statistics.fmean(differences)
    said = f"{abs(mean):.1f} {'fewer' if mean < 0 else 'more'} errors on average"
    if mean == 0:
        said = "as many errors on average"
    if seeds < FEWEST:
        few = "one seed" if seeds == 1 else f"{seeds} seeds"
        return _said("cannot be told", f"cannot be told from {few} ({said})", mean, None, seeds)
    if len(set(differences)) == 1:
        # Counts are whole numbers: that they agree by chance does not make the mean certain.
        same = (
            f"cannot be told: every seed differs alike ({said}), which leaves no spread to judge by"
        )
        return _said("cannot be told", same, mean, None, seeds)
    from scipy.stats import t

    spread = statistics.stdev(differences) / math.sqrt(seeds)
    half = float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * spread
    interval = (mean - half, mean + half)
    figures = (
        f"{said}, 95 % interval {_signed(interval[0])} … {_signed(interval[1])}, {seeds} seeds"
    )
    if interval[1] < 0:
        return _said("helped", f"helped: {figures}", mean, interval, seeds)
    if interval[0] > 0:
        return _said("did not help", f"did not help: {figures}", mean, interval, seeds)
    return _said("cannot be told", f"cannot be told: {figures}", mean, interval, seeds)


def _signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", "−")


def _said(
    kind: Kind, sentence: str, mean: float, interval: tuple[float, float] | None, seeds: int
) -> Verdict:
    low, high = interval or (None, None)
    return Verdict(kind=kind, sentence=sentence, difference=mean, low=low, high=high, seeds=seeds)
