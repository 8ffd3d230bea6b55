"""SIGTERM at any moment of a command: 143 from its first lines on, in one line."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Made, Outcome
from tests.processes import Process, from_shell, start, stuck
from tests.reliability import Reliability

SECTION = "Kills, disks and streams"
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1)
BIT = 1 << (signal.SIGTERM - 1)


def caught(process: Process) -> bool:
    """Whether a process handles SIGTERM by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) & BIT)


def loads(process: Process, library: str) -> bool:
    """Whether a process has begun to load a library."""
    return library in Path(f"/proc/{process.pid}/maps").read_text()


MOMENTS: dict[str, Callable[[Process], bool]] = {
    "its first": caught,
    "while torch is loaded": lambda process: loads(process, "libtorch"),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
@pytest.mark.parametrize("moment", MOMENTS)
def test_from_the_first_moment_on(here: Path, reliability: Reliability, moment: str) -> None:
    process = from_shell(*TRAIN, "--out", here / "t", "--quiet")
    process.until(lambda: MOMENTS[moment](process), moment)
    if moment == "its first":
        # A library of ours that takes time is still to come.
        assert not loads(process, "numpy")
    process.send(signal.SIGTERM)
    ended = process.end()
    assert ended.code == 143, ended.err
    [line] = ended.err.decode().splitlines()
    assert line.startswith("stopped ")
    assert not (here / "t").exists()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02])
def test_as_soon_as_the_process_exists(here: Path, delay: float) -> None:
    process = from_shell("doctor")
    time.sleep(delay)
    process.send(signal.SIGTERM)
    ended = process.end()
    # Before its first line it is Python's own start, which nobody handles.
    assert ended.code in (-signal.SIGTERM, 143)
    assert "Traceback" not in ended.err.decode()
    assert len(ended.err.splitlines()) == (ended.code == 143)


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ((*TRAIN, "--quiet"), ("distill_cli.pipeline.run.train", "prepare")),
        ((*TRAIN, "--quiet"), ("distill_cli.pipeline.run.train", "keep_relations")),
        (("evaluate", "nowhere"), ("distill_cli.cli.evaluate", "check_model_folder")),
    ],
)
def test_outside_training(
    made: Made,
    here: Path,
    reliability: Reliability,
    args: tuple[object, ...],
    place: tuple[str, str],
) -> None:
    process = start(*args, before=stuck(*place))
    process.until(lambda: stands(process), "the moment")
    process.send(signal.SIGTERM)
    ended = process.end()
    assert ended.code == 143, ended.err
    last = ended.err.decode().splitlines()[-1]
    assert last == "stopped at once; what was saved before is intact"
    if args[0] == "evaluate":
        outcome = Outcome(ended.code, "", ended.err.decode())
        reliability(
            *(SECTION, "SIGTERM outside training", "distill evaluate t", outcome),
            message=last,
        )


def stands(process: Process) -> bool:
    """Whether a process says on stderr that it is stuck."""
    # The child writes at the position that a seek here would change.
    return b"stuck here" in os.pread(process.err.fileno(), 4096, 0)
