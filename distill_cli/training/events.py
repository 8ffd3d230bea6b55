"""What a run tells: to a person through a sink, to its folder through the run log."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distill_cli.training.state import State


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """One training step was taken.

    Attributes:
        epoch: From 0.
        epochs: Of the whole training.
        step: In the epoch, from 1 once the first step is taken.
        steps: Of an epoch.
        images: Images of this step.
        means: Means of the epoch so far; asking waits for the device, so ask rarely.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images: int
    means: Callable[[], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class EpochEvent:
    """An epoch ended.

    Attributes:
        epoch: From 0.
        epochs: Of the whole training.
        row: What metrics.jsonl and summary.csv hold of it.
        best: Whether it is the best so far.
    """

    epoch: int
    epochs: int
    row: Mapping[str, Any]
    best: bool


# Told of so many done of so many in all.
Count = Callable[[int, int], None]


class Sink(Protocol):
    """Shows a person how a run goes."""

    def step(self, event: StepEvent) -> None:
        """After each training step; must be cheap."""

    def epoch(self, event: EpochEvent) -> None:
        """After each epoch."""

    def message(self, text: str) -> None:
        """One line worth knowing."""

    def reading(self, done: int, total: int) -> None:
        """So many images of so many are read; called for each, must be cheap."""

    def counting(self, unit: str) -> Count:
        """What to call with the units done and those in all; `unit` is the noun for one."""


class Silent:
    """A sink that shows nothing."""

    def step(self, event: StepEvent) -> None:
        """Nothing."""

    def epoch(self, event: EpochEvent) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def reading(self, done: int, total: int) -> None:
        """Nothing."""

    def counting(self, unit: str) -> Count:
        """Nothing."""
        return lambda done, total: None


def step_event(state: State, epochs: int, steps: int, images: int) -> StepEvent:
    """What is told of a step that has just been taken."""
    return StepEvent(
        epoch=state.epoch,
        epochs=epochs,
        step=state.step,
        steps=steps,
        images=images,
        means=state.means,
    )


def epoch_row(
    state: State, figures: Mapping[str, float], *, lr: float, images_per_second: float
) -> dict[str, Any]:
    """What metrics.jsonl and summary.csv hold of an epoch that has just ended.

    Args:
        state: Before the next epoch.
        figures: What is known of it beyond training: held-out figures, and what objectives say.
        lr: The learning rate at its end.
        images_per_second: Of its training steps.
    """
    return {
        "epoch": state.epoch + 1,
        "lr": lr,
        **{f"train_{name}": value for name, value in state.means().items()},
        **figures,
        "images_per_second": images_per_second,
        "seconds": state.epoch_seconds,
    }


class RunLog:
    """metrics.jsonl, an event a line, and summary.csv, a row an epoch: append-only.

    Both are cut back to the checkpoint's lengths on resume, so that no row stands twice.
    """

    def __init__(self, folder: Path) -> None:
        self.events = folder / "metrics.jsonl"
        self.summary = folder / "summary.csv"

    def lengths(self) -> tuple[int, int]:
        """Bytes of both files now: what a checkpoint remembers."""
        return _size(self.events), _size(self.summary)

    def cut_back(self, lengths: tuple[int, int]) -> None:
        """Forgets what came after a checkpoint."""
        for path, length in zip((self.events, self.summary), lengths, strict=True):
            with path.open("ab") as handle:
                handle.truncate(length)

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Appends one line."""
        _append(self.events, json.dumps({"event": kind, **values}, allow_nan=False) + "\n")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Appends an epoch to both files; in the table, whose cells are numbers, yes is 1."""
        self.event("epoch", row)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if _size(self.summary) == 0:
            writer.writeheader()
        cells = {key: int(cell) if isinstance(cell, bool) else cell for key, cell in row.items()}
        writer.writerow(cells)
        _append(self.summary, text.getvalue())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, text: str) -> None:
    with path.open("ab") as handle:
        handle.write(text.encode())
        handle.flush()
        os.fsync(handle.fileno())
