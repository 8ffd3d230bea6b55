"""The command line on a terminal, in a forked child of this process (see `processes`)."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.processes import PATIENCE, in_child, skip_beside_gpu, typed

# What a live display cannot do without: hide the cursor.
CONTROL = "\x1b[?25l"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
INTERRUPT = b"\x03"


@dataclass(frozen=True)
class Shown:
    """How a command ended, and the text that reached its terminal."""

    code: int
    text: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What was drawn, line by line and frame by frame, without control codes."""
        plain = SEQUENCE.sub("\n", COLOUR.sub("", self.text)).replace("\r", "\n")
        return [line.rstrip() for line in plain.split("\n") if line.strip()]


@dataclass(frozen=True)
class When:
    """What is done to a terminal once a text stands on it: keys pressed, the width changed.

    Attributes:
        text: What is waited for, from what was done last on.
        keys: What is pressed.
        after: Seconds later.
        columns: The new width, or 0.
    """

    text: str
    keys: bytes = b""
    after: float = 0.0
    columns: int = 0


def on_terminal(
    *args: object,
    columns: int = 80,
    term: str = "xterm-256color",
    whens: Sequence[When] = (),
    before: Callable[[], None] = lambda: None,
) -> Shown:
    """`distill ARGS` with stdin, stdout and stderr on one pseudo-terminal.

    Args:
        columns: Its width.
        term: The terminal's kind.
        whens: What happens to it, one after the other.
        before: Called in the child first.
    """
    started = time.monotonic()
    with warnings.catch_warnings():
        # Python warns of a fork beside threads; the child waits for none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        skip_beside_gpu()
        child, master = pty.fork()
    if child == 0:
        os.environ["TERM"] = term
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        in_child(typed(args), lambda: (_resize(0, columns), before()))
    killer = threading.Timer(PATIENCE, os.killpg, (child, signal.SIGKILL))
    killer.start()
    left, text, seen = list(whens), "", 0
    try:
        # Linux says that nobody writes any more by an error.
        while chunk := os.read(master, 65536):
            text += chunk.decode(errors="replace")
            while left and left[0].text in text[seen:]:
                when, seen = left.pop(0), len(text)
                time.sleep(when.after)
                if when.columns:
                    _resize(master, when.columns)
                    os.killpg(child, signal.SIGWINCH)
                os.write(master, when.keys)
    except OSError:
        pass
    _, status = os.waitpid(child, 0)
    killer.cancel()
    os.close(master)
    assert not left, f"never seen: {left[0].text!r} in {text!r}"
    return Shown(os.waitstatus_to_exitcode(status), text, time.monotonic() - started)


def _resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
