"""Atomic files (temporary file, fsync, rename), and locks that admit one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_cli.errors import InternalError, UsageError

TEMPORARY = ".tmp-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of paths at which no file can be, or none that we may read. Python 3.14 reports some of
# these files as absent.
BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENOTDIR, errno.EISDIR)


def write_atomically(
    path: Path, write: Callable[[Path], object], *, before: Path | None = None
) -> None:
    """Lets `write` fill a temporary neighbour of `path`, then renames it into place.

    A kill at any moment leaves either the old file or the new one. A leftover temporary file
    starts with `.tmp-` and is removed by `remove_temporaries`.

    Args:
        path: The file.
        write: Fills the file that it is given.
        before: A neighbour that the old file becomes; a kill may leave it there, and none at `path`.

    Raises:
        InternalError: The disk is full or refuses the write.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        if before is not None and path.exists():
            path.replace(before)
        temporary.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in DISK_FULL:
            raise InternalError(
                f"disk full while writing {path}",
                hint="Free some space and rerun with --resume; what was saved before is intact",
            ) from error
        raise InternalError(f"cannot write {path}: {error.strerror}") from error


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: keys in the order given, NaN refused.

    The indent is two spaces, but plain lists and the items of lists stand on one line each, to keep
    a thousand class names or shards short.
    """
    write_text(path, _indented(value, "") + "\n")


def _indented(value: Any, before: str) -> str:
    inner = f"{before}  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{_one_line(str(key))}: {_indented(value[key], inner)}" for key in value]
        return "{\n" + ",\n".join(items) + f"\n{before}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + _one_line(item) for item in value) + f"\n{before}]"
    return _one_line(value)


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def sha256(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def remove_temporaries(folder: Path) -> None:
    """Removes temporary files of killed writers below `folder`."""
    for orphan in folder.rglob(f"{TEMPORARY}*"):
        if orphan.is_file():
            orphan.unlink(missing_ok=True)


def real_path(path: Path | str) -> Path:
    """The absolute path with links resolved; a link that leads to itself stays as it is.

    `Path.resolve` raises RuntimeError for such a link before Python 3.13, and nothing since.
    """
    return Path(os.path.realpath(path))


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock file while a run or a dump writes into it.

    Raises:
        UsageError: Another process holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is read-only", hint="Choose another folder with --out")
    # Whoever asks `is_written` holds it for a moment.
    lock = FileLock(folder / ".lock", timeout=0.2)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{folder} is being written by another process",
            hint="Wait for it, or choose another folder with --out",
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_written(folder: Path) -> bool:
    """Whether a process holds the folder's lock now; nothing is made or changed."""
    import fcntl

    try:
        # Without a wait for the other end, if it is a pipe that lies there.
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_NONBLOCK)
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
