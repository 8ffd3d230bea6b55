"""What a person sees: every display on a pseudo-terminal, to its end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# A display that hangs is killed after so many seconds, with all that it started.
PATIENCE = 60.0
# What a live display cannot do without: hide the cursor.
CONTROL = b"\x1b[?25l"


@dataclass(frozen=True)
class Typed:
    code: int
    shown: bytes


def typed(*args: object, folder: Path, **environment: str) -> Typed:
    """The command with stdin, stdout and stderr on one pseudo-terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "distill_cli", *(str(arg) for arg in args)]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env=env,
        start_new_session=True,
    )
    os.close(slave)
    killer = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    shown = bytearray()
    try:
        # Linux says that nobody writes any more by an error.
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:
        pass
    code = process.wait()
    killer.cancel()
    os.close(master)
    return Typed(code, bytes(shown))


def test_training_ends_on_a_terminal(tmp_path: Path) -> None:
    started = time.monotonic()
    seen = typed(
        *("teacher", "train", "--data", "digits", "--model", "mlp_16x1"),
        *("--epochs", 1, "--device", "cpu", "--out", "t"),
        folder=tmp_path,
    )
    assert seen.code == 0, seen.shown.decode(errors="replace")
    assert CONTROL in seen.shown, "the display was shown"
    assert time.monotonic() - started < PATIENCE
