"""Paths that a person named: where they lead, and whether they can be written, before any work."""

from __future__ import annotations

import os
from pathlib import Path

from distill_cli.errors import UsageError


def real_path(path: Path | str) -> Path:
    """The absolute path with links resolved; a link that leads to itself stays as it is.

    `Path.resolve` raises RuntimeError for such a link before Python 3.13, and nothing since.
    """
    return Path(os.path.realpath(path))


def check_writable(folder: Path) -> None:
    """Refuses a folder that cannot be written, before any work is done.

    Raises:
        UsageError: It, or the nearest parent that exists, is read-only, a file or a broken link.
    """
    _check(folder, folder)


def named_file(path: Path) -> Path:
    """The file that a person named, checked before any work: links to it are followed.

    Whoever makes it writes to what this returns, with the functions of this room.

    Raises:
        UsageError: It cannot be written: a folder, a pipe, a device, or in a folder that is
            read-only, a file or a broken link.
    """
    target = real_path(path)
    try:
        plain = not _exists(target) or target.is_file()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    if not plain:
        kind = "a folder" if target.is_dir() else "no plain file"
        raise UsageError(f"cannot write {path}: it is {kind}", hint="Name a file")
    for folder in (path.parent, target.parent):
        _check(folder, path)
    return target


def _check(folder: Path, path: Path) -> None:
    """Refuses to write `path`, which is a folder or will be a file in it."""
    existing = folder
    try:
        while not _exists(existing):
            if existing.is_symlink():
                raise UsageError(f"cannot write {path}: {existing} is a link that leads nowhere")
            existing = existing.parent
        if not existing.is_dir():
            raise UsageError(f"cannot write {path}: {existing} is a file")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: {existing} is read-only")


def _exists(path: Path) -> bool:
    """Whether something is there; a path that cannot be looked at is an error on every Python."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
