"""Events of a run and the sink that shows them to a person; `run_log` keeps them in the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distill_cli.training.state import State
from distill_cli.types import Count


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """One training step was taken.

    Attributes:
        epoch: Number of the epoch, from 0.
        epochs: Epochs of the whole training.
        step: Number of the step in its epoch, from 1 once the first is taken.
        steps: Steps of an epoch.
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
        epoch: Number of the epoch, from 0.
        epochs: Epochs of the whole training.
        row: Its row in metrics.jsonl and summary.csv.
        best: Whether the epoch is the best so far.
    """

    epoch: int
    epochs: int
    row: Mapping[str, Any]
    best: bool


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
        """A function of the units done and those in all; `unit` is the noun for one."""


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
    """The event of a step that has just been taken."""
    return StepEvent(
        epoch=state.epoch,
        epochs=epochs,
        step=state.step,
        steps=steps,
        images=images,
        means=state.means,
    )
