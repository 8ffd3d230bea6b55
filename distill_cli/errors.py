"""The errors that users see, each with its exit code, and phrases for messages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher
from itertools import takewhile
from pathlib import Path
from typing import Any

# Control characters, line breaks of Unicode, directions of bidirectional text, marks without a width
# and halves of surrogate pairs, which stand for bytes of file names that are no UTF-8. The joiners
# (U+200C, U+200D) are letters of Persian and Hindi, and of emoji.
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# An object that a library shows by its address, with the blank before it.
OBJECT = re.compile(r" ?<[\w.]+(?: object)? at 0x[0-9a-fA-F]+>")
# Words by which a sentence of a library speaks to programmers, not to whoever trains.
ADVICE = re.compile(
    r"weights_only|Weights only load|still be loaded|In PyTorch \d|trusted? (the )?source|file an issue"
)
# An option in a sentence.
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# Likeness, from 0 to 1, from which on a name is taken for another's slip.
CLOSE = 0.6
# Names that a message lists where none is close.
LISTED = 8
# Longer names than these are no slips, and to compare them takes long.
LONGEST_NAME = 100


def visible(text: str) -> str:
    """The text as one line that shows all of its characters and moves no cursor.

    What is no letter stands as in Python's source: an escape is `\\x1b`, a line break `\\n`, a byte of a
    file name that is no UTF-8 `\\xff`. To make a text visible twice changes no more.
    """
    return INVISIBLE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines, whose line breaks are ours."""
    return "\n".join(map(visible, text.split("\n")))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # Python's sign of the byte 0x80 to 0xff.
        code -= 0xDC00
    if character in SHORT:
        return SHORT[character]
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def in_one_line(text: str) -> str:
    """A message as people read it: visible, and without the addresses of objects."""
    return visible(OBJECT.sub("", text))


def reason(error: BaseException) -> str:
    """The message of a library's exception: its first line, or its kind.

    Without a full stop, addresses of objects, and sentences of advice to programmers.
    """
    lines = str(error).strip().splitlines() or [""]
    parts = re.split(r"(?<=[.!?]) ", in_one_line(lines[0]))
    text = " ".join(part for part in parts if not ADVICE.search(part))
    return text.strip().rstrip(".") or type(error).__name__


def sentences(*parts: str) -> str:
    """Sentences one behind the other, each with one full stop where it has no mark of its own."""
    # A path may end with two dots.
    ended = [
        part if part.endswith(("?", "!")) or re.search(r"(?<!\.)\.$", part) else f"{part}."
        for part in parts[:-1]
    ]
    return " ".join([*ended, *parts[-1:]])


class DistillError(Exception):
    """An error in one line, what is wrong and what to do, with the exit code of its kind.

    Names, paths and reasons in it come from files and libraries: whatever they hold, it is one line.

    Args:
        message: The fault in one line, with the names and values involved.
        hint: The remedy, if it is not obvious from the message.

    Attributes:
        rank: The one of several ranks that it arose on, where each of them raises it; else None.
        ended: What another rank left of its end, where that is why this one ends; else None.
    """

    exit_code = 1
    rank: int | None = None
    ended: dict[str, Any] | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        parts = [message] if hint is None else [message, hint]
        super().__init__(in_one_line(sentences(*parts)))
        self.message = in_one_line(message)
        self.hint = hint


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: extension modules turn one into errors of their own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


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


def fitting(hint: str | None, options: Collection[str]) -> str | None:
    """A hint without those of its alternatives that name options which a command does not have.

    Whatever is of another `distill …` stays, and --resume, which is of the command that began a run.

    Args:
        hint: Alternatives, which ", or " separates.
        options: The command's, with their hyphens.
    """
    parts = [] if hint is None else hint.split(", or ")
    others = ("distill ", "--resume")
    kept = [
        part
        for part in parts
        if any(word in part for word in others) or set(OPTION.findall(part)) <= set(options)
    ]
    text = ", or ".join(kept)
    # The first one left begins a sentence; the first of all is as it was written, a command perhaps.
    return (text if kept[:1] == parts[:1] else text[:1].upper() + text[1:]) or None


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
        "Did you mean 'x'?" where a valid name is close, else "Valid: a, b, c."; of many names the
        nearest few.
    """
    names = sorted(set(valid))
    name = name[:LONGEST_NAME].lower()
    if (close := _closest(name, names)) is not None:
        return f"Did you mean '{close}'?"
    if len(names) <= LISTED:
        return f"Valid: {', '.join(names)}."
    return f"Valid: {', '.join(_by_nearness(name, names)[:LISTED])}, … ({len(names):,} in all)."


def _closest(name: str, names: Sequence[str]) -> str | None:
    """The likest name; where none begins with this one, their beginnings count too."""
    starting = [other for other in names if other.lower().startswith(name)]
    matcher = SequenceMatcher(b=name)

    def likeness(text: str) -> float:
        matcher.set_seq1(text.lower())
        quick = matcher.real_quick_ratio() >= CLOSE and matcher.quick_ratio() >= CLOSE
        return matcher.ratio() if quick else 0.0

    def rank(other: str) -> tuple[float, int, int, str]:
        # A name of many parts is meant by its first: mobilnet is mobilenetv3_large_100.
        begun = 0.0 if starting else 0.99 * likeness(other[: len(name) + 1])
        same = takewhile(lambda pair: pair[0] == pair[1], zip(name, other.lower(), strict=False))
        return max(likeness(other), begun), len(list(same)), -len(other), other

    best = max(starting or names, key=rank, default=None)
    return best if best is not None and rank(best)[0] >= CLOSE else None


def _by_nearness(name: str, names: Sequence[str]) -> list[str]:
    """Names, those that begin with another name first, then those that hold it, then by likeness."""
    matcher = SequenceMatcher(b=name)

    def distance(other: str) -> tuple[bool, bool, float, str]:
        lower = other.lower()
        matcher.set_seq1(lower)
        return not lower.startswith(name), name not in lower, -matcher.ratio(), other

    return sorted(names, key=distance)
