"""Where text goes: people on stderr, results on stdout; a closed pipe never stops the work."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from rich.console import Console


class Unbreakable:
    """A text stream that goes quiet, instead of raising, once its reader has gone."""

    def __init__(self, name: str) -> None:
        # Bound once: a live display puts a proxy of its own into sys.stderr, which writes to the
        # display's console. Looked up at each write, that console would write to itself for ever.
        self.stream: TextIO = getattr(sys, name)
        self.gone = False

    def write(self, text: str) -> int:
        """Writes, or drops the text where nobody reads any more."""
        if not self.gone:
            try:
                self.stream.write(text)
            except BrokenPipeError:
                self._lose()
        return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing where nobody reads any more."""
        if not self.gone:
            try:
                self.stream.flush()
            except BrokenPipeError:
                self._lose()

    def isatty(self) -> bool:
        """Whether a terminal reads it."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self.stream.fileno()

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return self.stream.encoding or "utf-8"

    def _lose(self) -> None:
        self.gone = True
        # Python flushes at exit and would complain of what is still buffered.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())


def console(name: str) -> Console:
    """A console on `stdout` or `stderr`: no colour and no control codes without a terminal."""
    stream = Unbreakable(name)
    terminal = stream.isatty()
    return Console(
        file=stream,  # type: ignore[arg-type]
        force_terminal=terminal,
        no_color=None if terminal else True,
        color_system="auto" if terminal else None,
        highlight=False,
        soft_wrap=not terminal,
        width=None if terminal else 120,
    )


def say(text: Any) -> None:
    """Something for a person, on stderr; rich markup."""
    console("stderr").print(text)


def result(text: Any) -> None:
    """A result, on stdout."""
    console("stdout").print(text)


def result_json(value: Any) -> None:
    """One JSON document on stdout."""
    stream = Unbreakable("stdout")
    stream.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    stream.flush()
