"""Progress of a run: one line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distill_cli.cli.bar import (
    ACCURACY,
    HELD_OUT,
    LEFT,
    LOSS,
    READY,
    SPEED,
    STAND,
    Line,
    Pace,
    Part,
)
from distill_cli.cli.terminal import DISPLAYS, console, escape, say
from distill_cli.errors import counted, visible

if TYPE_CHECKING:
    from rich.console import Console

    from distill_cli.training.events import EpochEvent, Sink, StepEvent
    from distill_cli.types import Count

# Seconds between two looks at the loss: each one waits for the device.
ON_TERMINAL, IN_LOG = 0.2, 5.0

EarlierLines = set[str] | None


class Meter:
    """Figures of a training step: loss and accuracy, images a second, time left."""

    def __init__(self) -> None:
        self.pace = Pace()

    def note(self, event: StepEvent) -> None:
        """Counts a step."""
        self.pace.note(event.epoch * event.steps + event.step)

    def parts(self, event: StepEvent, held_out: str = "") -> list[Part]:
        """All of them, in the order they are shown in."""
        means = event.means()
        left = event.epochs * event.steps - (event.epoch * event.steps + event.step)
        rate = self.pace.rate
        return [
            Part(f"epoch {event.epoch + 1}/{event.epochs}", STAND),
            Part(f"loss {means['loss']:.4f}", LOSS),
            Part(f"acc {100 * means['top1']:.1f} %" if "top1" in means else "", ACCURACY),
            Part(accepted(means, ""), ACCURACY),
            Part(held_out, HELD_OUT),
            Part(f"{rate * event.images:,.0f} images/s" if rate else "", SPEED),
            Part(self.pace.left(left), LEFT),
        ]


class LogDisplay:
    """A plain line every few seconds, or nothing at all.

    Args:
        label: Name of the run, rich markup.
        messages: Show lines beside the progress.
        earlier: Lines that are not shown again.
        quiet: Show nothing.
    """

    def __init__(self, label: str, *, messages: bool, earlier: EarlierLines, quiet: bool) -> None:
        self.label = label
        self.messages = messages and not quiet
        self.earlier = earlier
        self.quiet = quiet
        self.meter = Meter()
        self.looked = time.monotonic()

    def _due(self) -> bool:
        """Whether the last line is some seconds old."""
        if self.quiet or time.monotonic() - self.looked < IN_LOG:
            return False
        self.looked = time.monotonic()
        return True

    def step(self, event: StepEvent) -> None:
        """A line with all figures."""
        self.meter.note(event)
        if self._due():
            stand, *figures = (part.text for part in self.meter.parts(event) if part.text)
            step = f"step {event.step}/{event.steps}"
            say("  ".join([f"{self.label}: {stand}, {step}", *figures]))

    def epoch(self, event: EpochEvent) -> None:
        """A line for the last epoch only; the rest is in summary.csv."""
        if event.epoch + 1 == event.epochs and not self.quiet:
            say(f"{self.label}: epoch {event.epoch + 1}/{event.epochs}  {held_out(event)}")

    def message(self, text: str) -> None:
        """The line."""
        if self.messages and _is_new(text, self.earlier):
            say(escape(text))

    def reading(self, done: int, total: int) -> None:
        """A line of the images read."""
        if self._due():
            say(f"{self.label}: read {done:,} of {counted(total, 'image')}")

    def counting(self, unit: str) -> Count:
        """Lines of the units done."""

        def count(done: int, total: int) -> None:
            if self._due():
                say(f"{self.label}: {done:,} of {counted(total, unit)}")

        return count


class BarDisplay:
    """The line that moves, with the latest figures.

    Args:
        line: The line that a live display shows.
        screen: The console that it is drawn on.
        messages: Show lines above it.
        earlier: Lines that are not shown again.
    """

    def __init__(
        self, line: Line, screen: Console, *, messages: bool, earlier: EarlierLines
    ) -> None:
        self.line = line
        self.screen = screen
        self.messages = messages
        self.earlier = earlier
        self.meter = Meter()
        self.looked = 0.0
        self.held_out = ""
        self._read = self._counter("image", "read ")

    def _due(self, last: bool) -> bool:
        """Whether it is time for a look; always at the last of a kind."""
        if not last and time.monotonic() - self.looked < ON_TERMINAL:
            return False
        self.looked = time.monotonic()
        return True

    def step(self, event: StepEvent) -> None:
        """Moves the bar."""
        self.meter.note(event)
        if self._due(event.step == event.steps and event.epoch + 1 == event.epochs):
            share = (event.epoch + event.step / event.steps) / event.epochs
            self.line.show(share, self.meter.parts(event, self.held_out))

    def epoch(self, event: EpochEvent) -> None:
        """Shows the held-out accuracy from the next look on."""
        self.held_out = held_out(event)

    def message(self, text: str) -> None:
        """A line above the bar."""
        if self.messages and _is_new(text, self.earlier):
            self.screen.print(escape(text))

    def reading(self, done: int, total: int) -> None:
        """Moves the bar over the images read."""
        self._read(done, total)
        if done == total:
            self.line.show(None, (READY,))

    def counting(self, unit: str) -> Count:
        """Moves the bar over the units done."""
        return self._counter(unit)

    def _counter(self, unit: str, verb: str = "") -> Count:
        pace = Pace()

        def count(done: int, total: int) -> None:
            pace.note(done)
            if self._due(done == total):
                stand = f"{verb}{done:,} of {counted(total, unit)}"
                left = pace.left(total - done)
                self.line.show(done / max(1, total), [Part(stand, STAND), Part(left, LEFT)])

        return count


def _is_new(text: str, earlier: EarlierLines) -> bool:
    """Whether a line was not said before; from now on it was."""
    if earlier is None:
        return True
    new = text not in earlier
    earlier.add(text)
    return new


def held_out(event: EpochEvent) -> str:
    """Held-out accuracy, or the loss of hints, with a star where it is the best so far."""
    row: Mapping[str, float] = event.row
    star = " *" if event.best else ""
    if "val_hint" in row:
        return f"held-out hint loss {row['val_hint']:.4g}{star}"
    if "val_top1" not in row:
        return "nothing held out"
    of_labels = f", mAP {100 * row['val_map']:.2f} %" if "val_map" in row else ""
    made_up = f", {text}" if (text := accepted(row, "train_")) else ""
    return f"held-out {100 * row['val_top1']:.2f} %{of_labels}{star}{made_up}"


def accepted(figures: Mapping[str, float], prefix: str) -> str:
    """Share of the images without a label that learnt from a made-up one; empty where there is none."""
    name = f"{prefix}accepted"
    return f"pseudo-labels {100 * figures[name]:.1f} %" if name in figures else ""


@contextmanager
def progress(
    label: str, *, quiet: bool, messages: bool = True, earlier: EarlierLines = None
) -> Iterator[Sink]:
    """The display that suits where stderr goes.

    Args:
        label: Name of the run.
        quiet: Show nothing.
        messages: Show lines beside the progress; off where many runs say the same.
        earlier: Lines of earlier displays, which are not shown again; None shows all lines.
    """
    screen = console("stderr")
    if quiet or not screen.is_terminal or screen.is_dumb_terminal:
        yield LogDisplay(escape(label), messages=messages, earlier=earlier, quiet=quiet)
        return
    from rich.live import Live

    line = Line(visible(label))
    live = Live(line, console=screen, transient=True, refresh_per_second=1 / ON_TERMINAL)
    DISPLAYS.append(live.stop)
    try:
        with live:
            yield BarDisplay(line, screen, messages=messages, earlier=earlier)
    finally:
        # Again: a Ctrl-C may come while it starts.
        live.stop()
        DISPLAYS.remove(live.stop)
