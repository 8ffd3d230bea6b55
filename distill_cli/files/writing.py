"""The one writer: whole files or none, in folders whose links lead nowhere.

Nothing outside this room makes, changes or removes a file. A path is trusted up to its root, the
folder that a person named: links on the way there are followed, as anywhere. Below it a folder may
be a stranger's, and no component of a path that is written may be a link. The root is the outermost
folder of `below` or `one_writer` that the path lies in; elsewhere, the folder that the file is in.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from distill_cli.errors import ArtifactError, InternalError, UsageError
from distill_cli.files.hand import writes

TEMPORARY = ".tmp-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of paths at which no file can be, or none that we may read. Python 3.14 reports some of
# these files as absent.
BAD_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENOTDIR, errno.EISDIR)
# Errors of paths at which none can be written: another path is the remedy.
UNWRITABLE = (*BAD_PATH, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EBUSY)
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without a wait for the other end, if it is a pipe that lies there.
PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_ROOTS: list[Path] = []


@contextmanager
def below(root: Path) -> Iterator[None]:
    """Has everything that is written below a folder reached from there without following a link."""
    absolute = root.absolute()
    _ROOTS.append(absolute)
    try:
        yield
    finally:
        _ROOTS.remove(absolute)


@contextmanager
def failing(path: Path, *, verb: str = "write") -> Iterator[None]:
    """Turns the system's errors into ours.

    Raises:
        UsageError: The path is one that cannot be written.
        InternalError: The disk is full or refuses the write.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            # What holds its folder meanwhile is gone on with, or made again.
            rerun = " and rerun, a training with --resume; what was saved before is intact"
            rerun = rerun if _ROOTS else ""
            raise InternalError(
                f"disk full while writing {path}", hint=f"Free some space{rerun}"
            ) from error
        kind = UsageError if error.errno in UNWRITABLE else InternalError
        raise kind(f"cannot {verb} {path}: {error.strerror or error}") from error


@contextmanager
def opened(folder: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder, reached from its root without following a link.

    Args:
        folder: The folder.
        make: Make it, and its parents, where they are absent.
    """
    absolute = folder.absolute()
    roots = [root for root in _ROOTS if absolute.is_relative_to(root)]
    root = min(roots, key=lambda root: len(root.parts), default=absolute)
    if make:
        root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, FOLDER)
    try:
        parts = absolute.relative_to(root).parts
        for depth, part in enumerate(parts, start=1):
            inner = _open_inner(part, descriptor, make=make)
            if inner is None:
                raise linked([folder, *folder.parents][len(parts) - depth])
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _open_inner(name: str, folder: int, *, make: bool) -> int | None:
    """A descriptor of a folder in a folder; None where it is a link."""
    try:
        return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return None
        raise


def linked(path: Path) -> ArtifactError:
    """The error of a path that would be written and is a link."""
    return ArtifactError(
        f"{path} is a link, and nothing is written through a link in a folder of distill's",
        hint="Remove it, or choose another folder",
    )


def check_plain(path: Path, folder: int) -> None:
    """Refuses to write where something lies that is no plain file.

    Args:
        path: The file.
        folder: A descriptor of its folder.

    Raises:
        ArtifactError: It is a link, a folder, a pipe or a device.
    """
    with suppress(FileNotFoundError):
        mode = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise linked(path)
        if not stat.S_ISREG(mode):
            raise ArtifactError(
                f"{path} is no plain file", hint="Remove it, or choose another folder"
            )


@contextmanager
def _created(name: str, folder: int) -> Iterator[BinaryIO]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAIN
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "w+b") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A file that is not there yet, open to be written; it is on disk once this context is left.

    Raises:
        DistillError: It is there, or cannot be made.
    """
    with (
        failing(path),
        opened(path.parent, make=True) as folder,
        _created(path.name, folder) as file,
    ):
        yield file


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, before: Path | None = None
) -> None:
    """Lets `write` fill a temporary neighbour of `path`, then renames it into place.

    A kill at any moment leaves either the old file or the new one. A leftover temporary file
    starts with `.tmp-` and is removed by `remove_temporaries`.

    Args:
        path: The file.
        write: Fills the file whose handle it is given.
        before: A neighbour that the old file becomes; a kill may leave it there, and none at `path`.

    Raises:
        UsageError: There can be no file at the path.
        ArtifactError: A link leads there, or something that is no plain file is there.
        InternalError: The disk is full or refuses the write.
    """
    if not writes():
        return
    with failing(path), opened(path.parent, make=True) as folder:
        for target in (path, before):
            if target is not None:
                check_plain(target, folder)
        temporary = f"{TEMPORARY}{os.urandom(8).hex()}"
        try:
            with _created(temporary, folder) as handle:
                write(handle)
            if before is not None:
                with suppress(FileNotFoundError):
                    os.replace(path.name, before.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            # A disk that has become read-only would refuse this too.
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)


def write_bytes(
    path: Path, content: bytes | memoryview[int], *, before: Path | None = None
) -> None:
    """Writes bytes atomically; the arguments are those of `write_atomically`."""
    write_atomically(path, lambda handle: handle.write(content), before=before)


def append(path: Path, text: str) -> None:
    """Appends to a log, which is on disk once this returns.

    Raises:
        DistillError: As `write_atomically`.
    """
    if not writes():
        return
    with _log(path) as handle:
        handle.write(text.encode())


def cut(path: Path, length: int) -> None:
    """Cuts a log back to a length in bytes; one that is shorter stays so.

    Raises:
        DistillError: As `write_atomically`.
    """
    if not writes():
        return
    with _log(path) as handle:
        # A file that lost its end would be filled up with zeroes.
        handle.truncate(min(length, handle.tell()))


@contextmanager
def _log(path: Path) -> Iterator[BinaryIO]:
    with failing(path), opened(path.parent) as folder:
        check_plain(path, folder)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | PLAIN
        with os.fdopen(os.open(path.name, flags, 0o666, dir_fd=folder), "ab") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())


def move(path: Path, to: Path) -> None:
    """Renames a file or folder; a file that is at the new name is replaced.

    Raises:
        DistillError: As `write_atomically`.
    """
    if not writes():
        return
    with failing(to), opened(path.parent) as source, opened(to.parent) as target:
        check_plain(to, target)
        os.replace(path.name, to.name, src_dir_fd=source, dst_dir_fd=target)


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link by itself; nothing where none is.

    Raises:
        DistillError: As `write_atomically`.
    """
    if not writes():
        return
    with failing(path, verb="remove"), suppress(FileNotFoundError), opened(path.parent) as folder:
        if stat.S_ISDIR(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            # It follows no link either.
            shutil.rmtree(path.name, dir_fd=folder)
        else:
            os.unlink(path.name, dir_fd=folder)


def remove_temporaries(folder: Path, *, below: bool = True) -> None:
    """Removes temporary files of killed writers in `folder` and below it, where no link leads.

    Args:
        folder: The folder, whose lock is held.
        below: Also in its sub-folders; not where these have locks of their own.
    """
    for inner, folders, names in os.walk(folder) if writes() else ():
        for name in (*names, *folders):
            path = Path(inner, name)
            if name.startswith(TEMPORARY) and (name in names or path.is_symlink()):
                with suppress(OSError):
                    path.unlink()
        if not below:
            break
