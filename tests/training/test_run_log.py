"""Logs are cut back to what a checkpoint remembers, and never filled up to it."""

from __future__ import annotations

from pathlib import Path

from distill_cli.training.run_log import RunLog
from distill_cli.training.state import State


def test_a_log_that_lost_its_end_stays_short(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.cut_back(State())
    assert log.lengths() == (0, 0)
    log.events.write_bytes(b"one\ntwo\n")
    log.summary.write_bytes(b"epoch\n1\n")
    log.cut_back(State(log_lengths=(4, 100)))
    assert log.events.read_bytes() == b"one\n"
    assert log.summary.read_bytes() == b"epoch\n1\n"
