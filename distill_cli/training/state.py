"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill_cli.metrics import Metrics


@dataclass(kw_only=True)
class State:
    """Where a run stands; all of it lives in the loop and in checkpoints.

    Attributes:
        epoch: The epoch under way, from 0.
        step: Steps of it that are taken.
        sums: Sums over the epoch's steps of loss, terms and correct answers, fp64.
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
    sums: dict[str, Tensor] = field(default_factory=dict)
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
        self.epoch, self.step, self.sums, self.epoch_seconds = self.epoch + 1, 0, {}, 0.0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the figures of a step, or of a part of one, without waiting for the device."""
        for name, value in values.items():
            before = self.sums.get(name)
            # Metal has no fp64.
            wide = torch.float32 if value.device.type == "mps" else torch.float64
            self.sums[name] = value.to(wide) if before is None else before + value

    def means(self) -> dict[str, float]:
        """Means over the epoch's steps so far; waits for the device."""
        return {name: float(total) / self.step for name, total in self.sums.items()}
