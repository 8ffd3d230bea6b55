"""Image files in a folder or an archive, read without unpacking anything to disk."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distill_cli.errors import ArtifactError

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
}
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVES = (".tar", ".zip", *COMPRESSED_TAR)


@dataclass(frozen=True)
class Files:
    """Image files by relative path.

    Attributes:
        where: The folder or archive, for messages.
        paths: Parts of each image's path, as `("train", "cat", "1.png")`.
        folders: Parts of every folder that was listed, empty ones included.
        read: Content of the image of this number; safe to call from several threads.
    """

    where: str
    paths: tuple[tuple[str, ...], ...]
    folders: frozenset[tuple[str, ...]]
    read: Callable[[int], bytes]


def is_archive(path: Path) -> bool:
    """Whether a file name is that of an archive we read."""
    return path.name.lower().endswith(ARCHIVES)


def open_files(path: Path) -> Files:
    """The image files of a folder or archive.

    Raises:
        ArtifactError: The archive is damaged.
    """
    if path.is_dir():
        return _folder(path)
    with _damage(path):
        if path.name.lower().endswith(".zip"):
            return _zip(path)
        if path.name.lower().endswith(COMPRESSED_TAR):
            return _compressed_tar(path)
        return _tar(path)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ArtifactError(f"archive {path} cannot be read: {error}") from None


def _parts(name: str) -> tuple[str, ...] | None:
    """Path parts of a member; None for what is hidden, or points outside the archive."""
    path = PurePosixPath(name)
    parts = tuple(part for part in path.parts if part != ".")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden or path.is_absolute() or not parts else parts


def _is_image(parts: tuple[str, ...]) -> bool:
    return PurePosixPath(parts[-1]).suffix.lower() in IMAGE_SUFFIXES


def _folder(root: Path) -> Files:
    paths, folders = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".") and name != "__MACOSX"]
        relative = Path(folder).relative_to(root).parts
        folders.add(relative)
        paths += [(*relative, name) for name in names if _parts(name) and _is_image((name,))]
    ordered = tuple(sorted(paths))
    return Files(
        str(root), ordered, frozenset(folders), lambda i: root.joinpath(*ordered[i]).read_bytes()
    )


def _tar(path: Path) -> Files:
    """Plain tar: indexed once, then read by offset."""
    found: list[tuple[tuple[str, ...], int, int]] = []
    folders = set()
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            parts = _parts(member.name)
            if parts and member.isdir():
                folders.add(parts)
            elif parts and member.isreg() and _is_image(parts):
                found.append((parts, member.offset_data, member.size))
    descriptor = os.open(path, os.O_RDONLY)

    def read(index: int) -> bytes:
        _, offset, size = found[index]
        return os.pread(descriptor, size, offset)

    return Files(str(path), tuple(parts for parts, _, _ in found), frozenset(folders), read)


def _compressed_tar(path: Path) -> Files:
    """A compressed stream has no random access: one pass, the members' bytes stay in memory."""
    contents: list[bytes] = []
    paths, folders = [], set()
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            parts = _parts(member.name)
            if parts and member.isdir():
                folders.add(parts)
            elif parts and member.isreg() and _is_image(parts):
                handle = tar.extractfile(member)
                assert handle is not None, "a regular member has content"
                paths.append(parts)
                contents.append(handle.read())
    return Files(str(path), tuple(paths), frozenset(folders), contents.__getitem__)


def _zip(path: Path) -> Files:
    archive = zipfile.ZipFile(path)
    names, paths, folders = [], [], set()
    for member in archive.infolist():
        parts = _parts(member.filename)
        if parts and member.is_dir():
            folders.add(parts)
        elif parts and _is_image(parts):
            names.append(member.filename)
            paths.append(parts)

    def read(index: int) -> bytes:
        with _damage(path):
            return archive.read(names[index])

    return Files(str(path), tuple(paths), frozenset(folders), read)
