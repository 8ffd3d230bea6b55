"""When a run pauses between two steps: to keep its state, or to end before it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distill_cli.errors import StoppedError
from distill_cli.recipe.parsing import Duration
from distill_cli.training.exchange import Exchange, Wishes


def clock() -> float:
    """Seconds of a clock that is never set back; only differences mean something."""
    return time.monotonic()


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """The end of the time that a command may take.

    Attributes:
        at: Reading of the clock.
        text: The time, as `--max-time` spells it.
    """

    at: float
    text: str

    @classmethod
    def of(cls, asked: Duration | None) -> TimeLimit | None:
        """The end of a time that begins now; None where none was asked for."""
        return None if asked is None else cls(at=clock() + asked.seconds, text=asked.text)

    def check(self, where: str, run: Path) -> None:
        """Ends the run in this folder where the time is up; `where` it stands, in words.

        Raises:
            StoppedError: It is.
        """
        if self.is_up:
            raise self.error(where, run)

    @property
    def is_up(self) -> bool:
        """Whether the time is over."""
        return clock() >= self.at

    def error(self, where: str, run: Path) -> StoppedError:
        """The end of the run in this folder because the time is up."""
        return StoppedError(
            f"stopped {where}: --max-time {self.text} is up",
            signal_number=None,
            hint=f"Go on with --resume --out {run}",
            run=run,
        )


@dataclass(kw_only=True)
class Pauses:
    """Says after each step whether to go on; that costs one look at the clock.

    Attributes:
        signal: The signal that asks to stop, or None.
        checkpoint_every: Seconds between two checkpoints.
        limit: The end of the command's time; None where it may take any.
        resumed_at: The folder that `--resume` goes on from, if it is not the run's own.
        exchange: By what ranks agree to stop, all after the same step; None for one by itself.
    """

    signal: Callable[[], int | None] = lambda: None
    checkpoint_every: float = math.inf
    limit: TimeLimit | None = None
    resumed_at: Path | None = None
    exchange: Exchange | None = None
    _next: float = field(init=False)

    def __post_init__(self) -> None:
        self.saved()

    def saved(self) -> None:
        """A checkpoint was written: the next one is due so much later, or where the time ends."""
        end = math.inf if self.limit is None else self.limit.at
        self._next = min(clock() + self.checkpoint_every, end)
        if self.exchange is not None:
            self.exchange.agreed.keep = False
            self._ask(self.exchange)

    def due(self) -> bool:
        """Whether the state is to be kept now: by time, or because the run is to stop."""
        if self.exchange is None:
            return self.signal() is not None or clock() >= self._next
        # All keep it after the same step, for the parts of one state may lie on all of them.
        self._ask(self.exchange)
        return self.exchange.agreed != Wishes()

    def _wishes(self) -> Wishes:
        time_up = self.limit is not None and self.limit.is_up
        return Wishes(signal_number=self.signal(), time_up=time_up)

    def _ask(self, exchange: Exchange) -> None:
        wishes = self._wishes()
        wishes.keep = not wishes.time_up and clock() >= self._next
        exchange.ask(wishes)

    def _agreed(self) -> Wishes:
        """What counts: the wishes of this process, or those that all ranks know of."""
        return self._wishes() if self.exchange is None else self.exchange.agreed

    def check(self, where: str, run: Path) -> None:
        """Ends a run that is to stop; what it goes on from is kept before.

        Args:
            where: Where training stands: in epoch 3 of 30.
            run: Its folder.

        Raises:
            StoppedError: A signal came, or the time is up.
        """
        run, agreed = self.resumed_at or run, self._agreed()
        if (number := agreed.signal_number) is not None:
            hint = f"Go on with --resume --out {run}"
            raise StoppedError(f"stopped {where}", signal_number=number, hint=hint, run=run)
        if self.limit is not None and agreed.time_up:
            raise self.limit.error(where, run)
