"""Image files in a folder or an archive, read without unpacking anything to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
}
COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
ARCHIVES = (".tar", ".zip", *COMPRESSED)


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
        if path.name.lower().endswith(tuple(COMPRESSED)):
            return _compressed_tar(path)
        return _tar(path)


DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError),
)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ArtifactError(f"archive {path} cannot be read: {error}") from None


def _parts(name: str) -> tuple[str, ...] | None:
    """Path parts of a member; None for what is hidden, or points outside the archive (`..`)."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden or name.startswith("/") or not parts else parts


def _is_image(parts: tuple[str, ...]) -> bool:
    return "." + parts[-1].rpartition(".")[2].lower() in IMAGE_SUFFIXES


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
    found, folders = _index(tarfile.open(path, "r:"))  # noqa: SIM115 (closed by `_index`)
    descriptor = os.open(path, os.O_RDONLY)

    def read(index: int) -> bytes:
        _, offset, size = found[index]
        return os.pread(descriptor, size, offset)

    return Files(str(path), tuple(parts for parts, _, _ in found), folders, read)


def _compressed_tar(path: Path) -> Files:
    """A compressed stream has no random access: it is decompressed once, into memory."""
    opener = next(o for suffix, o in COMPRESSED.items() if path.name.lower().endswith(suffix))
    with opener(path) as stream:
        content: bytes = stream.read()
    found, folders = _index(tarfile.open(fileobj=io.BytesIO(content), mode="r:"))  # noqa: SIM115

    def read(index: int) -> bytes:
        _, offset, size = found[index]
        return content[offset : offset + size]

    return Files(str(path), tuple(parts for parts, _, _ in found), folders, read)


Members = list[tuple[tuple[str, ...], int, int]]


def _index(tar: tarfile.TarFile) -> tuple[Members, frozenset[tuple[str, ...]]]:
    """Path parts, offset and size of every image; path parts of every folder."""
    found: Members = []
    folders = set()
    with tar:
        for member in tar:
            parts = _parts(member.name)
            if parts and member.isdir():
                folders.add(parts)
            elif parts and member.isreg() and _is_image(parts):
                found.append((parts, member.offset_data, member.size))
    return found, frozenset(folders)


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
