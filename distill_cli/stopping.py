"""SIGINT and SIGTERM as requests that a loop honours after its step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; the second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


class _Watch:
    """Ends this process where a SIGTERM is not honoured in time, whatever the main thread does.

    Python's own handler runs between two operations of the main thread, and one may take minutes. The
    kernel's delivery writes the signal's number into a pipe at once, which a thread reads.

    Args:
        grace: Seconds from the signal to the end.
        overdue: Ends the process with an exit code, with a line for a person.
    """

    # Child processes forget the pipe: what ends one of them must not end this one.
    in_force = False

    def __init__(self, grace: float, overdue: Callable[[int], object]) -> None:
        self.grace, self.overdue, self.over = grace, overdue, threading.Event()
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.previous = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        _Watch.in_force = True
        self.thread = threading.Thread(target=self._run, name="grace", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Watches no longer."""
        signal.set_wakeup_fd(self.previous)
        _Watch.in_force = False
        self.over.set()
        os.write(self.writer, b"\0")
        self.thread.join()
        os.close(self.reader)
        os.close(self.writer)

    def _run(self) -> None:
        while signal.SIGTERM not in os.read(self.reader, 4096):
            if self.over.is_set():
                return
        # The last line is inside the grace too, and whoever reads it may have gone to sleep.
        for_words = min(1.0, self.grace / 10)
        if self.over.wait(self.grace - for_words):
            return
        code = 128 + signal.SIGTERM
        words = threading.Thread(target=self.overdue, args=(code,), daemon=True)
        words.start()
        words.join(for_words)
        os._exit(code)


def _forget_pipe() -> None:
    if _Watch.in_force:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_pipe)


@contextmanager
def stop_signals(
    grace: float | None = None, overdue: Callable[[int], object] = os._exit
) -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request that the loop honours after its step.

    Outside the main thread, where Python allows no handlers, the request never comes.

    Args:
        grace: Seconds after a SIGTERM at which the process ends in any case, with exit code 143, unless
            this context is left before; None to wait for the loop. A call that holds Python's lock
            all the while is waited for.
        overdue: Ends it then, given the exit code.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}
    watch: _Watch | None = None
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, request)
        if grace is not None:
            watch = _Watch(grace, overdue)
    except ValueError:
        previous.clear()
    try:
        yield request
    finally:
        if watch is not None:
            watch.close()
        for restored, handler in previous.items():
            signal.signal(restored, handler)
