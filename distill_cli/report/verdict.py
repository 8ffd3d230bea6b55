"""Did it help? Said in words, and only as surely as the seeds allow.

Three answers, from the 95 % confidence interval of mean(distilled − hard) test errors, which is as
wide as the seeds vary and at least as wide as counts of errors vary by themselves:

- "helped": the whole interval lies below zero.
- "did not help": no improvement lies inside it (its lower end is at or above zero); where it lies
  above zero the sentence says that it hurt.
- "cannot be told": it holds both, or there are fewer than three seeds and no interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill_cli.errors import UsageError
from distill_cli.report.format import signed

CONFIDENCE = 0.95
# Two seeds that happen to differ alike would show no spread at all.
SEEDS = 3
CAVEAT = (
    "The interval is as wide as the seeds vary, and at least as wide as counts of errors do; the "
    "test images are one fixed set, and other images may tell otherwise."
)
Kind = Literal["helped", "did not help", "cannot be told"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether distillation changed the number of test errors.

    Attributes:
        kind: The answer.
        sentence: The same in words, with its figures; no full stop.
        difference: Mean of distilled − hard errors; negative is better; None without runs.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end; None where there is none.
        seeds: Pairs compared, or runs on the smaller side where unpaired.
        paired: Whether errors were compared seed by seed.
    """

    kind: Kind
    sentence: str
    difference: float | None
    low: float | None
    high: float | None
    seeds: int
    paired: bool

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95 % interval; None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def verdict(
    hard: Sequence[float],
    distilled: Sequence[float],
    test_samples: int | None = None,
    paired: bool = True,
) -> Verdict:
    """Compares test errors by Student's t at 95 %, but never more surely than counts allow.

    Paired: runs of one seed share initial weights (where the network is the same) and data
    order, so that their difference is what distillation did. Unpaired: Welch's t, which lets the
    two sides vary differently. Few seeds may agree by chance; errors are counts all the same, and
    the interval is not narrower than that of binomial counts as large as these. The seeds vary, the
    test images do not: see `CAVEAT`.

    Args:
        hard: Test errors on hard labels, one a seed.
        distilled: Test errors of the distilled student; in the same order of seeds if `paired`.
        test_samples: Number of test images; None where unknown.
        paired: Whether the two lists go seed by seed.

    Raises:
        UsageError: `paired`, but of different lengths.
    """
    if paired and len(hard) != len(distilled):
        raise UsageError(
            f"{len(hard)} runs on hard labels cannot be paired with {len(distilled)} distilled",
            hint="Run both with the same seeds",
        )
    seeds = min(len(hard), len(distilled))
    if seeds == 0:
        return _without_interval("there are no runs to compare", None, seeds, paired)
    difference = _difference(hard, distilled, paired)
    change = _change(difference, test_samples)
    if seeds < SEEDS:
        few = "one seed is" if seeds == 1 else "two seeds are"
        reason = f"{few} too few for an interval, three are the least ({change})"
        return _without_interval(reason, difference, seeds, paired)
    half = max(
        _half_width(hard, distilled, paired), _binomial_half_width(hard, distilled, test_samples)
    )
    low, high = difference - half, difference + half
    kind: Kind = "helped" if high < 0 else "did not help" if low >= 0 else "cannot be told"
    return Verdict(
        kind=kind,
        sentence=_sentence(kind, change, low, high, _runs(hard, distilled, paired)),
        difference=difference,
        low=low,
        high=high,
        seeds=seeds,
        paired=paired,
    )


def _without_interval(reason: str, difference: float | None, seeds: int, paired: bool) -> Verdict:
    return Verdict(
        kind="cannot be told",
        sentence=f"cannot be told: {reason}",
        difference=difference,
        low=None,
        high=None,
        seeds=seeds,
        paired=paired,
    )


def _difference(hard: Sequence[float], distilled: Sequence[float], paired: bool) -> float:
    if paired:
        return statistics.fmean(_pairs(hard, distilled))
    return statistics.fmean(distilled) - statistics.fmean(hard)


def _pairs(hard: Sequence[float], distilled: Sequence[float]) -> list[float]:
    return [float(d) - float(h) for h, d in zip(hard, distilled, strict=True)]


def _half_width(hard: Sequence[float], distilled: Sequence[float], paired: bool) -> float:
    """t × standard error; 0 where nothing varies."""
    from scipy.stats import t

    if paired:
        squares = [_squared_error(_pairs(hard, distilled))]
    else:
        squares = [_squared_error(hard), _squared_error(distilled)]
    total = sum(square for square, _ in squares)
    if total == 0:
        return 0.0
    # Welch and Satterthwaite; for one sample this is n − 1.
    freedom = total**2 / sum(square**2 / (n - 1) for square, n in squares)
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(total)


def _squared_error(values: Sequence[float]) -> tuple[float, int]:
    """Squared standard error of the mean, and how many values it is of."""
    return statistics.variance(values) / len(values), len(values)


def _binomial_half_width(
    hard: Sequence[float], distilled: Sequence[float], test_samples: int | None
) -> float:
    """Half of the interval that binomial counts of these means have; their spread is known.

    Of p ≪ 1, or unknown images, a count's variance is its mean. Half an error is added to each
    side's total (Jeffreys), so that no errors at all are not taken for certain.
    """
    total = 0.0
    for counts in (hard, distilled):
        mean = (sum(counts) + 0.5) / len(counts)
        right = 1.0 if test_samples is None else max(0.0, 1 - mean / test_samples)
        total += mean * right / len(counts)
    return statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(total)


def _change(difference: float, test_samples: int | None) -> str:
    of = "" if test_samples is None else f" of {test_samples}"
    if difference == 0:
        return f"as many errors{of} on average"
    shown = signed(abs(difference)).lstrip("+")
    word = "fewer" if difference < 0 else "more"
    return f"{shown} {word} errors{of} on average"


def _runs(hard: Sequence[float], distilled: Sequence[float], paired: bool) -> str:
    if paired:
        return f"{len(hard)} seeds"
    return f"{len(hard)} and {len(distilled)} seeds, not paired"


def _sentence(kind: Kind, change: str, low: float, high: float, runs: str) -> str:
    word = "did not help, it hurt" if low > 0 else kind
    return f"{word}: {change}, 95 % interval {signed(low)} to {signed(high)} ({runs}, one test set)"
