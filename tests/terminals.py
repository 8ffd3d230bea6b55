"""The command line on a terminal, a pipe or a broken stream, in a child of this process.

A forked child has everything imported, so that a test takes no longer than what it tests.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import tempfile
import termios
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count

# What hangs is killed after so many seconds, with all that it started.
PATIENCE = 60.0
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
        child, master = pty.fork()
    if child == 0:
        os.environ["TERM"] = term
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        _run(args, lambda: (_resize(0, columns), before()))
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


@dataclass(frozen=True)
class Written:
    """How a command ended, and the bytes in the files that its streams went to."""

    code: int
    out: bytes
    err: bytes


def in_files(
    *args: object, encoding: str = "utf-8", before: Callable[[], None] = lambda: None
) -> Written:
    """`distill ARGS` with stdout and stderr in files, opened in an encoding.

    Args:
        encoding: Of both streams.
        before: Called in the child first.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _run(args, before, encoding)
        killer = threading.Timer(PATIENCE, os.killpg, (child, signal.SIGKILL))
        killer.start()
        _, status = os.waitpid(child, 0)
        killer.cancel()
        out.seek(0)
        err.seek(0)
        return Written(os.waitstatus_to_exitcode(status), out.read(), err.read())


def _run(args: Sequence[object], before: Callable[[], object], encoding: str = "utf-8") -> None:
    """What the child does: `distill`, as from a shell, and never more of the test."""
    code: object = 99
    # Whoever starts the tests in the background may have them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        os.environ.pop("DISTILL_DEBUG", None)
        before()
        sys.argv = ["distill", *(str(arg) for arg in args)]
        from distill_cli.__main__ import main

        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except OSError:
            code = 120
        finally:
            os._exit(code if isinstance(code, int) else 98)


def stuck(module: str, name: str, *, at: int = 1) -> Callable[[], None]:
    """A `before`: the function says so on stderr at its call number `at`, and does not end.

    Args:
        module: Where it is looked up.
        name: Of the function, or Class.method.
        at: Which call.
    """

    def wait(call: int) -> None:
        if call == at:
            os.write(2, b"stuck here\n")
            while True:
                time.sleep(0.01)

    return _changed(module, name, wait)


def slowed(module: str, name: str, *, seconds: float) -> Callable[[], None]:
    """A `before`: each call of the function takes so much longer."""
    return _changed(module, name, lambda call: time.sleep(seconds))


def _changed(module: str, name: str, first: Callable[[int], None]) -> Callable[[], None]:
    """Has `first` called with the number of each call of a function, before it."""

    def patch() -> None:
        owner: object = import_module(module)
        *parents, last = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        plain, calls = getattr(owner, last), count(1)

        def changed(*args: object, **kwargs: object) -> object:
            first(next(calls))
            return plain(*args, **kwargs)

        setattr(owner, last, changed)

    return patch
