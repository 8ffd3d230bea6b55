"""Locks that admit one writer of a folder at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.files.hand import writes
from distill_cli.files.writing import PLAIN, below, check_plain, failing, opened

LOCK = ".lock"
# Whoever asks `is_written` holds a lock for a moment.
SECONDS = 0.2


@contextmanager
def one_writer(folder: Path, *, root: Path | None = None) -> Iterator[None]:
    """Holds the folder's lock file while a run or a dump writes into it.

    Args:
        folder: The folder, made where absent. No link below it is written through meanwhile.
        root: The folder that a person named, where that is one above it.

    Raises:
        UsageError: Another process holds it, or the folder cannot be written.
        ArtifactError: The lock is no plain file, or a link leads to it from the root.
    """
    import fcntl

    if not writes():
        yield
        return
    with below(root or folder):
        lock = _open_lock(folder)
        try:
            _acquire(lock, folder)
            try:
                yield
            finally:
                # Now, and not with the last process that a fork has given the descriptor to.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)


def _open_lock(folder: Path) -> int:
    with failing(folder), opened(folder, make=True) as descriptor:
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{folder} is read-only", hint="Choose another folder with --out")
        check_plain(folder / LOCK, descriptor)
        return os.open(LOCK, os.O_RDWR | os.O_CREAT | PLAIN, 0o644, dir_fd=descriptor)


def _acquire(lock: int, folder: Path) -> None:
    import fcntl

    deadline = time.monotonic() + SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"{folder} is being written by another process",
                    hint="Wait for it, or choose another folder with --out",
                ) from None
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be locked: {error.strerror}",
                hint="Choose a folder on another file system with --out",
            ) from None
        time.sleep(SECONDS / 10)


def is_written(folder: Path) -> bool:
    """Whether a process holds the folder's lock now; nothing is made or changed."""
    import fcntl

    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | PLAIN)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # A file system without locks, on which nobody holds one.
        return False
    finally:
        os.close(descriptor)
    return False
