"""Signals, in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from distill_cli.stopping import stop_signals
from tests.processes import fork

OVERDUE = 77


def overdue(code: int) -> None:
    os._exit(OVERDUE)


def leaves_in_time() -> None:
    """Honours the signal, and lives on after the grace."""
    with stop_signals(0.4, overdue) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal_number == signal.SIGTERM
    time.sleep(0.8)


def waits_without_grace() -> None:
    with stop_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.8)
        assert request.signal_number == signal.SIGTERM


def is_interrupted() -> None:
    """Ctrl-C has no grace: whoever pressed it may press it again."""
    with stop_signals(0.4, overdue) as request:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.8)
        assert request.signal_number == signal.SIGINT


def ends_a_child() -> None:
    """A child that is ended tells its parent nothing, though it has the same open files."""
    with stop_signals(0.4, overdue) as request:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        # It has begun to sleep, with the handlers of its parent.
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        time.sleep(0.8)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert request.signal_number is None


def twice() -> None:
    """One run after another, as the stages of a chain are."""
    for _ in range(2):
        with stop_signals(0.4, overdue):
            pass
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    "does", [leaves_in_time, waits_without_grace, is_interrupted, ends_a_child, twice]
)
def test_the_watch_ends_nobody_who_is_in_time(does: Callable[[], None]) -> None:
    ended = fork(does).end()
    assert ended.code == 0, ended.err.decode()


def is_late() -> None:
    with stop_signals(0.4, overdue):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def is_late_and_mute() -> None:
    """Nobody reads its last words, which therefore never end."""
    with stop_signals(0.4, lambda code: time.sleep(60)):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


@pytest.mark.parametrize(("does", "code"), [(is_late, OVERDUE), (is_late_and_mute, 143)])
def test_the_watch_ends_who_is_late(does: Callable[[], None], code: int) -> None:
    begun = time.monotonic()
    assert fork(does).end().code == code
    assert 0.3 < time.monotonic() - begun < 20
