"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from distill_cli.metrics import Metrics
from distill_cli.training.tally import Tally


@dataclass(kw_only=True)
class State:
    """Where a run stands; all of it lives in the loop and in checkpoints.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Steps of it that are taken.
        tally: Loss, terms and share of correct answers over the epoch's steps.
        best_epoch: The epoch with the best held-out figures; −1 before the first.
        best_top1: Its held-out accuracy.
        best_nll: Its held-out NLL, which decides between equal accuracies.
        rates: Training images a second, one entry a finished epoch.
        epoch_seconds: Seconds of training steps in the epoch under way.
        seconds: Seconds of the whole run, evaluation included.
        log_lengths: Bytes of metrics.jsonl and summary.csv.
    """

    epoch: int = 0
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    best_epoch: int = -1
    best_top1: float = -1.0
    best_nll: float = float("inf")
    rates: list[float] = field(default_factory=list)
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    log_lengths: tuple[int, int] = (0, 0)

    def is_best(self, held_out: Metrics) -> bool:
        """Whether these held-out figures are the best so far; if so, remembers them.

        Accuracy decides, NLL between equal accuracies, which small held-out splits are full of.
        """
        if (held_out.top1, -held_out.nll) <= (self.best_top1, -self.best_nll):
            return False
        self.best_epoch, self.best_top1, self.best_nll = self.epoch, held_out.top1, held_out.nll
        return True

    def next_epoch(self, rate: float, seconds: float) -> None:
        """Closes the epoch under way, which ran at `rate` images/s and took `seconds` in all."""
        self.rates.append(rate)
        self.seconds += seconds
        self.epoch, self.step, self.tally, self.epoch_seconds = self.epoch + 1, 0, Tally(), 0.0

    def means(self) -> dict[str, float]:
        """Means over the epoch's steps so far; waits for the device."""
        return {name: total / self.step for name, total in self.tally.read().items()}

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
