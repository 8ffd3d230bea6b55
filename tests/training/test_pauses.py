"""When a run keeps its state, and when it stops: by a clock that the tests set."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from distill_cli.errors import StoppedError
from distill_cli.recipe.parsing import parse_duration
from distill_cli.training import pauses
from distill_cli.training.pauses import Pauses, TimeLimit

RUN = Path("runs/a")


class Clock:
    """A clock that stands until it is set; it counts who looks at it."""

    def __init__(self) -> None:
        self.time, self.looks = 1000.0, 0

    def __call__(self) -> float:
        self.looks += 1
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pauses, "clock", clock)
    return clock


def test_checkpoints_are_so_far_apart_whoever_writes_them(clock: Clock) -> None:
    every = Pauses(checkpoint_every=300)
    due = []
    for _ in range(8):
        clock.time += 100
        due.append(every.due())
        if due[-1]:
            every.saved()
    assert due == [False, False, True, False, False, True, False, False]
    every.saved()  # at the end of an epoch
    clock.time += 299
    assert not every.due()
    every.check("in epoch 1 of 2", RUN)


def test_a_step_looks_once_at_the_clock(clock: Clock) -> None:
    watched = Pauses(checkpoint_every=300, limit=TimeLimit.of(parse_duration("2h")))
    before = clock.looks
    for _ in range(50):
        assert not watched.due()
    assert clock.looks - before == 50


def test_time_that_is_up_stops_with_code_0(clock: Clock) -> None:
    limited = Pauses(checkpoint_every=1e6, limit=TimeLimit.of(parse_duration("1m30s")))
    clock.time += 89
    assert not limited.due()
    limited.check("in epoch 1 of 2", RUN)
    clock.time += 1
    assert limited.due(), "its state is kept first"
    limited.saved()
    with pytest.raises(
        StoppedError, match="stopped in epoch 1 of 2: --max-time 1m30s is up"
    ) as stop:
        limited.check("in epoch 1 of 2", RUN)
    assert stop.value.exit_code == 0
    assert stop.value.run == RUN
    assert stop.value.hint == f"Go on with --resume --out {RUN}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_its_own_code(clock: Clock, number: int) -> None:
    asked: list[int] = []
    stopping = Pauses(signal=lambda: next(iter(asked), None), resumed_at=Path("runs/chain"))
    assert not stopping.due()
    asked.append(number)
    assert stopping.due()
    with pytest.raises(StoppedError, match="Go on with --resume --out runs/chain") as stop:
        stopping.check("in epoch 1 of 2", RUN)
    assert stop.value.exit_code == 128 + number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("1h0m5s", 3605), (" 90m ", 5400)],
)
def test_times_as_people_spell_them(text: str, seconds: int) -> None:
    asked = parse_duration(text)
    assert asked.seconds == seconds
    assert str(asked) == text.strip()
    assert parse_duration(asked) == asked


@pytest.mark.parametrize(
    "text",
    ["90", "0s", "0h0m", "", "m", "2d", "-5m", "1.5h", "30m1h", "1h 30m", "99999h", "5min", "∞"],
)
def test_nonsense_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 5m, 2h or 1h30m"):
        parse_duration(text)
