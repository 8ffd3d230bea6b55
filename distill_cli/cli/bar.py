"""One line of progress on a terminal, fitted to its width: what matters least goes first."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from distill_cli.cli.tables import GAP, fitting

# Ranks: the part that stays longest in a narrow terminal has the lowest.
STAND, LEFT, LABEL, LOSS, HELD_OUT, BAR, ACCURACY, SPEED = range(8)
NARROWEST, WIDEST = 6, 20
# Cells of the moving piece where nobody knows how much there is to do, and cells a second.
PIECE, RUN = 4, 8.0
# Seconds that a speed is a mean over, and between two measurements.
WINDOW, APART = 30.0, 0.1


class Part(NamedTuple):
    """A piece of the line.

    Attributes:
        text: Its words or figures.
        rank: Parts of higher rank are left out first.
    """

    text: str
    rank: int


# Shown before anything is counted.
READY = Part("getting ready", STAND)


class Line:
    """A label, a bar and some figures: as much of it as one line of the terminal holds."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.share: float | None = None
        self.parts: Sequence[Part] = (READY,)

    def show(self, share: float | None, parts: Sequence[Part]) -> None:
        """Changes bar and figures; None where nobody knows how much there is to do."""
        self.share, self.parts = share, parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Room for the ^C that a terminal shows, which would else begin a line that stays.
        yield self.fitted(options.max_width - len("^C"), plain=console.no_color)

    def fitted(self, width: int, *, plain: bool = False) -> Text:
        """The line in at most `width` cells; `plain` draws what is left of the bar as nothing."""
        bar = Part("━" * NARROWEST, BAR)
        parts = [Part(self.label, LABEL), bar, *self.parts]
        parts = [part for part in parts if part.text]
        widths = [cell_len(part.text) for part in parts]
        indices = fitting(widths, [part.rank for part in parts], width)
        kept = [parts[index] for index in indices]
        free = width - sum(widths[index] for index in indices) - GAP * (len(kept) - 1)
        line = Text(no_wrap=True, overflow="crop", end="")
        for part in kept:
            line.append(" " * GAP if line else "")
            if part is bar:
                line.append_text(_bar(self.share, min(WIDEST, NARROWEST + free), plain=plain))
            else:
                line.append(part.text)
        return line


def _bar(share: float | None, width: int, *, plain: bool) -> Text:
    rest = " " if plain else "━"
    if share is None:
        start = int(time.monotonic() * RUN) % (width - PIECE + 1)
        lengths = (start, PIECE, width - PIECE - start)
    else:
        full = round(width * min(1.0, max(0.0, share)))
        lengths = (0, full, width - full)
    before, full, after = lengths
    return Text.assemble(
        (rest * before, "bar.back"), ("━" * full, "bar.complete"), (rest * after, "bar.back")
    )


class Pace:
    """Speed over the last half minute."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, float]] = deque()

    def note(self, done: float) -> None:
        """So much is done now; less than before is a new beginning."""
        now = time.monotonic()
        if self.seen and done < self.seen[-1][1]:
            self.seen.clear()
        if self.seen and now - self.seen[-1][0] < APART:
            return
        self.seen.append((now, done))
        # The first of these is where the mean begins.
        while len(self.seen) > 2 and now - self.seen[1][0] > WINDOW:
            self.seen.popleft()

    @property
    def rate(self) -> float | None:
        """So much a second; None until that is known."""
        if len(self.seen) < 2:
            return None
        (then, before), (now, done) = self.seen[0], self.seen[-1]
        return (done - before) / (now - then) or None

    def left(self, rest: float) -> str:
        """Time that so much takes, in words; empty until that is known."""
        return f"{duration(rest / self.rate)} left" if self.rate else ""


def duration(seconds: float) -> str:
    """1:02:03, 2:03 or 3 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
