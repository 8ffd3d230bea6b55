"""The errors that users see, each with its exit code, and phrases for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class DistillError(Exception):
    """An error in one line, what is wrong and what to do, with the exit code of its kind.

    Args:
        message: The fault in one line, with the names and values involved.
        hint: The remedy, if it is not obvious from the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        if hint is not None and message.endswith(".") and not message.endswith(".."):
            # Reasons that libraries give are sentences; a path may end with two dots.
            message = message[:-1]
        super().__init__(message if hint is None else f"{message}. {hint}")
        self.message = message
        self.hint = hint


class InternalError(DistillError):
    """The machine failed us: disk full, out of memory, a worker died (exit code 1)."""

    exit_code = 1


class UsageError(DistillError):
    """The command line or the recipe is wrong (exit code 2)."""

    exit_code = 2


class ArtifactError(DistillError):
    """Data, a model, a checkpoint or a cache is unusable or does not match (exit code 3)."""

    exit_code = 3


class DivergedError(DistillError):
    """Training produced NaN or infinity (exit code 4)."""

    exit_code = 4


class RequirementError(DistillError):
    """A `--require` gate was not met; everything is saved (exit code 5)."""

    exit_code = 5


class StoppedError(DistillError):
    """A run ended before it was done, because it was asked to; its state is kept.

    The exit code is 128 + the signal that asked, or 0 where the time of `--max-time` was up.

    Args:
        message: Where it stopped.
        signal_number: The signal; None for none.
        hint: The way to go on.
        run: The folder that goes on, where it is a training run's.
    """

    def __init__(
        self,
        message: str,
        *,
        signal_number: int | None,
        hint: str | None = None,
        run: Path | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.signal_number = signal_number
        self.run = run
        self.exit_code = 0 if signal_number is None else 128 + signal_number

    def hinting(self, hint: str) -> StoppedError:
        """The same stop with another way to go on."""
        number = self.signal_number
        return StoppedError(self.message, signal_number=number, hint=hint, run=self.run)


def counted(number: int, unit: str, several: str | None = None) -> str:
    """A number with its noun: "1 view", "1,234 views".

    Args:
        number: The number.
        unit: The noun in the singular.
        several: The noun in the plural, where it is not `unit` and an s.
    """
    return f"{number:,} {unit if number == 1 else several or f'{unit}s'}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A phrase that points from a misspelt name to the right one.

    Returns:
        "Did you mean 'x'?" where a valid name is close, else "Valid: a, b, c.".
    """
    names = sorted(set(valid))
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    shown = ", ".join(names[:30]) + (", …" if len(names) > 30 else "")
    return f"Valid: {shown}."
