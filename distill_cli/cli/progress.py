"""How a run shows its progress: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from distill_cli.cli.terminal import console, say

if TYPE_CHECKING:
    from distill_cli.training.events import EpochEvent, Sink, StepEvent

# Seconds between two looks at the loss: each one waits for the device.
ON_TERMINAL, IN_LOG = 0.2, 5.0


class Meter:
    """Images a second and time left, from steps alone."""

    def __init__(self) -> None:
        self.started = 0.0
        self.images = 0
        self.first: int | None = None

    def add(self, event: StepEvent) -> None:
        """Counts a step; the clock starts at the first one, which only warms up."""
        if self.first is None:
            self.first = event.epoch * event.steps + event.step
            self.started = time.monotonic()
        else:
            self.images += event.images

    def line(self, event: StepEvent) -> str:
        """Loss, accuracy, images/s and time left."""
        means = event.means()
        figures = f"loss {means['loss']:.4f}"
        if "top1" in means:
            figures += f"  acc {100 * means['top1']:.1f} %"
        if not self.images:
            return figures
        elapsed = max(time.monotonic() - self.started, 1e-9)
        taken = event.epoch * event.steps + event.step
        rate = (taken - (self.first or 0)) / elapsed
        left = (event.epochs * event.steps - taken) / max(rate, 1e-9)
        return f"{figures}  {self.images / elapsed:,.0f} images/s  {duration(left)} left"


def duration(seconds: float) -> str:
    """1:02:03, 2:03 or 3 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LogSink:
    """A plain line every few seconds."""

    def __init__(self, label: str, messages: bool) -> None:
        self.label = label
        self.messages = messages
        self.meter = Meter()
        self.looked: float | None = None

    def step(self, event: StepEvent) -> None:
        """A line, if the last one is some seconds old."""
        self.meter.add(event)
        now = time.monotonic()
        if self.looked is None:
            self.looked = now
        if now - self.looked >= IN_LOG:
            self.looked = now
            share = f"{event.step}/{event.steps}"
            say(
                f"{self.label}: epoch {event.epoch + 1}/{event.epochs}, step {share}  {self.meter.line(event)}"
            )

    def epoch(self, event: EpochEvent) -> None:
        """A line for the last epoch only; the rest is in summary.csv."""
        if event.epoch + 1 == event.epochs:
            say(f"{self.label}: epoch {event.epoch + 1}/{event.epochs}  {held_out(event)}")

    def message(self, text: str) -> None:
        """The line."""
        if self.messages:
            say(escape(text))

    def reading(self, done: int, total: int) -> None:
        """A line, if the last one is some seconds old."""
        now = time.monotonic()
        if self.looked is None:
            self.looked = now
        if now - self.looked >= IN_LOG:
            self.looked = now
            say(f"{self.label}: read {done:,} of {total:,} images")


class BarSink:
    """A progress bar over epochs with the latest figures."""

    def __init__(self, progress: Progress, label: str, messages: bool) -> None:
        self.progress = progress
        self.messages = messages
        self.task: TaskID = progress.add_task(label, total=None, figures="reading the data")
        self.meter = Meter()
        self.looked = 0.0
        self.held_out = ""

    def step(self, event: StepEvent) -> None:
        """Moves the bar; asks for the figures a few times a second."""
        self.meter.add(event)
        now = time.monotonic()
        if now - self.looked >= ON_TERMINAL:
            self.looked = now
            done = event.epoch + event.step / event.steps
            self.progress.update(
                self.task,
                total=event.epochs,
                completed=done,
                figures=f"{self.meter.line(event)}  {self.held_out}",
            )

    def epoch(self, event: EpochEvent) -> None:
        """Shows the held-out accuracy."""
        self.held_out = held_out(event)
        self.progress.update(self.task, total=event.epochs, completed=event.epoch + 1)

    def message(self, text: str) -> None:
        """A line above the bar."""
        if self.messages:
            self.progress.console.print(escape(text))

    def reading(self, done: int, total: int) -> None:
        """Moves the bar, a few times a second."""
        now = time.monotonic()
        if done == total:
            self.progress.update(self.task, total=None, completed=0, figures="")
        elif now - self.looked >= ON_TERMINAL:
            self.looked = now
            figures = f"read {done:,} of {total:,} images"
            self.progress.update(self.task, total=total, completed=done, figures=figures)


def held_out(event: EpochEvent) -> str:
    """Held-out accuracy, or the loss of hints, with a star where it is the best so far."""
    star = " *" if event.best else ""
    if "val_hint" in event.row:
        return f"held-out hint loss {event.row['val_hint']:.4g}{star}"
    of_labels = ""
    if "val_map" in event.row:
        of_labels = f", mAP {100 * float(event.row['val_map']):.2f} %"
    return f"held-out {100 * float(event.row['val_top1']):.2f} %{of_labels}{star}"


@contextmanager
def training_progress(label: str, *, quiet: bool, messages: bool = True) -> Iterator[Sink]:
    """The sink that suits where stderr goes.

    Args:
        label: Of the run.
        quiet: Show nothing.
        messages: Show lines beside the progress; off where many runs say the same.
    """
    from distill_cli.training.events import Silent

    screen = console("stderr")
    if quiet:
        yield Silent()
    elif not screen.is_terminal:
        yield LogSink(label, messages)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
        )
        with Progress(*columns, console=screen, transient=True) as progress:
            yield BarSink(progress, label, messages)


@contextmanager
def count_progress(label: str, *, quiet: bool) -> Iterator[CountSink]:
    """Progress of something that is counted, as views of a dump."""
    screen = console("stderr")
    if quiet or not screen.is_terminal:
        yield CountSink(None, label, quiet=quiet)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=screen, transient=True) as progress:
            yield CountSink(progress, label, quiet=False)


class CountSink:
    """`(done, total)` as a bar or as a line every few seconds."""

    def __init__(self, progress: Progress | None, label: str, *, quiet: bool) -> None:
        self.progress = progress
        self.label = label
        self.quiet = quiet
        self.looked = time.monotonic()
        self.task = progress.add_task(label, total=None) if progress is not None else None

    def __call__(self, done: int, total: int) -> None:
        """So much of so much is done."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done, total=total)
        elif not self.quiet and time.monotonic() - self.looked >= IN_LOG:
            self.looked = time.monotonic()
            say(f"{self.label}: {done:,} of {total:,}")
