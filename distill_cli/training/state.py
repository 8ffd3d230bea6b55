"""Where a run stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from distill_cli.errors import DivergedError
from distill_cli.training.tally import Tally


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is measured at the end of an epoch, on images that are not trained on.

    Attributes:
        figures: By name, as metrics.jsonl has them.
        rank: What chooses the epoch: greater is better, the first number decides.
    """

    figures: Mapping[str, float]
    rank: tuple[float, ...]


@dataclass(kw_only=True)
class State:
    """Where a run stands; all of it lives in the loop and in checkpoints.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Steps of it that are taken.
        tally: Loss, terms and share of correct answers over the epoch's steps.
        best_epoch: The epoch with the best held-out figures; −1 before the first.
        best: Its held-out figures.
        best_rank: What they were chosen by.
        rates: Training images a second, one entry a finished epoch.
        epoch_seconds: Seconds of training steps in the epoch under way.
        seconds: Seconds of the whole run, evaluation included.
        log_lengths: Bytes of metrics.jsonl and summary.csv.
    """

    epoch: int = 0
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    best_epoch: int = -1
    best: dict[str, float] = field(default_factory=dict)
    best_rank: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    log_lengths: tuple[int, int] = (0, 0)

    def is_best(self, held_out: HeldOut) -> bool:
        """Whether these held-out figures are the best so far; if so, remembers them."""
        if self.best_rank and list(held_out.rank) <= self.best_rank:
            return False
        self.best_epoch, self.best = self.epoch, dict(held_out.figures)
        self.best_rank = list(held_out.rank)
        return True

    def next_epoch(self, rate: float, seconds: float) -> None:
        """Closes the epoch under way, which ran at `rate` images/s and took `seconds` in all."""
        self.rates.append(rate)
        self.seconds += seconds
        self.epoch, self.step, self.tally, self.epoch_seconds = self.epoch + 1, 0, Tally(), 0.0

    def means(self) -> dict[str, float]:
        """Means over the epoch's steps so far; waits for the device."""
        return {name: total / self.step for name, total in self.tally.read().items()}

    def require_finite(self, held_out: Iterable[float] = ()) -> None:
        """Looks at the epoch's loss so far, and waits for the device.

        Raises:
            DivergedError: It, or one of these held-out figures, is NaN or infinite.
        """
        if not math.isfinite(sum(held_out, self.means().get("loss", 0.0))):
            raise DivergedError(
                f"the loss is no longer a number in epoch {self.epoch + 1}, step {self.step}",
                hint="Lower --lr; the best model and the last checkpoint before it are kept",
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "tally": self.tally.state_dict(), "log_lengths": list(self.log_lengths)}

    @classmethod
    def from_state_dict(cls, values: dict[str, Any]) -> State:
        """The inverse."""
        tally = Tally()
        tally.load_state_dict(values["tally"])
        return cls(**{**values, "tally": tally, "log_lengths": tuple(values["log_lengths"])})
