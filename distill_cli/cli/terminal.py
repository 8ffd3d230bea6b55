"""Text on its streams: people on stderr, results on stdout; no stream ever stops the work."""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.control import Control
from rich.markup import escape as escape_markup
from rich.segment import ControlType

from distill_cli.cli.muting import mute
from distill_cli.errors import INVISIBLE, reason, visible, visible_lines
from distill_cli.launched import place

# Wide enough for every line: a pipe has no width, and nothing is folded or cut there.
UNFOLDED = 1_000_000
# Descriptors 0 to 2 are stdin, stdout and stderr.
LAST_STANDARD = 2
# Exit code of a process that Ctrl-C ends: 128 and the signal's number.
INTERRUPTED = 128 + signal.SIGINT
INTERRUPTION = "stopped at once; what was saved before is intact"
# Functions that end the live displays: whoever leaves at once leaves no line of them behind.
DISPLAYS: list[Callable[[], None]] = []
# Substitutes for characters that the stream's encoding lacks; for all others, a "?".
LOOK_ALIKES = {
    **dict.fromkeys("─━╌╴╶╸╺–—−‑", "-"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╷╵", "+"),
    **dict.fromkeys("│┃‖", "|"),
    **dict.fromkeys("█▏▎▍▌▋▊▉", "#"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    **{"…": "...", "→": "->", "←": "<-", "±": "+/-", "×": "x", "·": "-", "≥": ">=", "≤": "<="},
}


def _look_alikes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "the handler is for encoding"
    wrong = error.object[error.start : error.end]
    return "".join(LOOK_ALIKES.get(character, "?") for character in wrong), error.end


codecs.register_error("look-alikes", _look_alikes)


class Unbreakable(io.TextIOBase):
    """A text stream whose writes always succeed.

    What the encoding lacks is replaced; what cannot be delivered, because there is no stream, its
    reader has gone or its disk is full, is dropped. There is no `buffer`, by which a library
    could write past all this.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes, or drops the text."""
        if self.stream is not None:
            try:
                self.stream.write(text.encode(self.encoding, "look-alikes").decode(self.encoding))
            except (OSError, ValueError):
                self._lose()
        return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        if self.stream is not None:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self._lose()

    def isatty(self) -> bool:
        """Whether a terminal reads it."""
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        """The stream's descriptor."""
        if self.stream is None:
            raise io.UnsupportedOperation("there is no stream")
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def _lose(self) -> None:
        """Python flushes at exit and would complain of what is still buffered: it goes nowhere."""
        lost, self.stream = self.stream, None
        try:
            descriptor = lost.fileno() if lost is not None else None
        except (OSError, ValueError):
            return
        if descriptor is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def guard() -> None:
    """Makes stdout and stderr unbreakable for this whole process, libraries included."""
    # A file opened later would get the number of a stream that is closed, and take its text.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD:
        pass
    os.close(descriptor)
    sys.stdout, sys.stderr = Unbreakable(sys.stdout), Unbreakable(sys.stderr)
    sys.unraisablehook = _interrupted_anywhere
    if not os.environ.get("DISTILL_DEBUG"):
        warnings.showwarning = _show_warning
        logging.lastResort = LibraryLines(logging.WARNING)


def mute_follower() -> None:
    """Has a rank for which another one speaks write nothing."""
    if not place().leads:
        mute()


# Whose warnings are of pictures: what cannot be read is an error, which names the file.
SILENT = "PIL"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A library's warning as one line, without its source."""
    if SILENT not in Path(filename).parts:
        text = reason(message) if isinstance(message, Warning) else message
        say(f"[dim]{escape(f'{category.__name__}: {text}')}[/dim]")


class LibraryLines(logging.Handler):
    """What libraries log, where nobody asked for logs: each record one line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Shows the record."""
        if record.name.split(".")[0] != SILENT:
            say(f"[dim]{escape(f'{record.name}: {record.getMessage()}')}[/dim]")


def _interrupted_anywhere(unraisable: Any) -> None:
    """Python drops what is raised in a destructor, and shows a traceback; Ctrl-C is not dropped."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    leave_saying(INTERRUPTION, INTERRUPTED)


def say_stopped(text: str) -> None:
    """The one line of a stop that was asked for, over the ^C that a terminal shows of it."""
    if place().ranks > 1 and "torch" in sys.modules:
        from distill_cli.meeting import claim

        if not place().leads or not claim():
            return
    screen = console("stderr")
    if not screen.is_dumb_terminal:
        screen.control(Control((ControlType.CARRIAGE_RETURN,)))
    screen.print(visible(text), markup=False)


def say_interrupted() -> None:
    """The one line of a Ctrl-C that ends everything at once."""
    say_stopped(INTERRUPTION)


def leave_saying(text: str, code: int) -> NoReturn:
    """Ends the displays, says the one line of a stop, and ends the process at once."""
    for end in DISPLAYS:
        end()
    say_stopped(text)
    leave(code)


def leave(code: int) -> NoReturn:
    """Ends the process without a wait for threads and workers, whose work nobody wants any more."""
    import multiprocessing

    console("stderr").show_cursor()
    for stream in (sys.stdout, sys.stderr):
        Unbreakable(stream).flush()
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(code)


class Screen(Console):
    """A console on which a text has no control characters but the line breaks between its lines.

    Texts of files and libraries go through `escape`, which shows their line breaks too. Whatever has
    not, moves no cursor either.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; texts are made visible first."""
        texts = [visible_lines(text) if isinstance(text, str) else text for text in objects]
        super().print(*texts, **options)


def escape(text: object) -> str:
    """A text that is not ours, in one line and as it is: no control characters, no markup."""
    return escape_markup(visible(str(text)))


def console(name: str) -> Console:
    """A console on `stdout` or `stderr`: no colour and no control codes without a terminal."""
    # Bound now: a live display puts a proxy of its own into sys.stderr, which writes to the
    # display's console. Looked up at each write, that console would write to itself for ever.
    stream = Unbreakable(getattr(sys, name))
    terminal = stream.isatty()
    return Screen(
        file=stream,  # type: ignore[arg-type]
        force_terminal=terminal,
        no_color=None if terminal else True,
        color_system="auto" if terminal else None,
        highlight=False,
        emoji=False,
        soft_wrap=not terminal,
        width=None if terminal else UNFOLDED,
    )


def say(text: Any) -> None:
    """Something for a person, on stderr; rich markup."""
    console("stderr").print(text)


def result(text: Any) -> None:
    """A result, on stdout; rich markup."""
    console("stdout").print(text)


def exactly(text: str) -> None:
    """A result on stdout to the letter, never folded: paths, recipes, what is pasted elsewhere.

    On a terminal it is visible; a script gets it as it is, even a path with a line break.
    """
    screen = console("stdout")
    if screen.is_terminal:
        screen.print(text, markup=False, soft_wrap=True)
    else:
        screen.file.write(text + "\n")
        screen.file.flush()


def print_location(path: Path, *, named: bool) -> None:
    """Prints the path of a result on stdout, unless the same terminal shows it already.

    Args:
        path: The folder or file.
        named: Whether stderr has named it.
    """
    if not (named and console("stdout").is_terminal and console("stderr").is_terminal):
        exactly(str(path))


def result_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout; one line where `indent` is None.

    What no terminal should be sent is written as JSON's own escapes; so is all that is not ASCII
    where the encoding is not Unicode.
    """
    stream = Unbreakable(sys.stdout)
    escaped = not stream.encoding.lower().startswith("utf")
    text = json.dumps(value, indent=indent, ensure_ascii=escaped, allow_nan=False)
    # Line breaks between values are not part of any text: those are written as \\n already.
    lines = [
        INVISIBLE.sub(lambda match: json.dumps(match[0])[1:-1], line) for line in text.split("\n")
    ]
    stream.write("\n".join(lines) + "\n")
    stream.flush()
