"""Image files in a folder or an archive, read without unpacking anything to disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from distill_cli.errors import ArtifactError

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
}
COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
ARCHIVES = (".tar", ".zip", *COMPRESSED_TAR)

# RuntimeError includes NotImplementedError, zipfile's word for an unknown compression.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError),
)


@dataclass(frozen=True)
class Files:
    """Image files by relative path.

    Attributes:
        where: Path of the folder or archive, for messages.
        paths: Parts of each image's path, as `("train", "cat", "1.png")`.
        folders: Parts of the path of every folder that was listed, empty folders included.
        read: Returns the content of the image of this number; safe to call from several threads.
    """

    where: str
    paths: tuple[tuple[str, ...], ...]
    folders: frozenset[tuple[str, ...]]
    read: Callable[[int], bytes]

    def top(self) -> int:
        """1 where everything lies in one leading folder, as archives often have it, else 0."""
        tops = {parts[0] for parts in self.paths}
        deep = all(len(parts) > 2 for parts in self.paths)
        return int(len(tops) == 1 and deep and not tops & {"train", "test", "val"})


def is_archive(path: Path) -> bool:
    """Whether a file name is that of an archive we read."""
    return path.name.lower().endswith(ARCHIVES)


def open_files(path: Path) -> Files:
    """The image files of a folder or archive.

    Raises:
        ArtifactError: The archive is damaged.
    """
    with _damage(path):
        if path.is_dir():
            files = _folder(path)
        elif path.name.lower().endswith(".zip"):
            files = _zip(path)
        elif path.name.lower().endswith(COMPRESSED_TAR):
            files = _compressed_tar(path)
        else:
            files = _tar(path)
    for parts in files.paths:
        _check_name(path, parts)
    return files


def _check_name(path: Path, parts: tuple[str, ...]) -> None:
    # Sample ids are hashed and written to JSON as UTF-8.
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        shown = "/".join(parts).encode("utf-8", "backslashreplace").decode()
        raise ArtifactError(
            f"{path} has a file name that is not UTF-8: {shown}", hint="Rename it"
        ) from None


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def _parts(name: str) -> tuple[str, ...] | None:
    """Path parts of a member; None where it is hidden or points outside the archive."""
    path = PurePosixPath(name)
    parts = tuple(part for part in path.parts if part != ".")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden or path.is_absolute() or not parts else parts


def _is_image(parts: tuple[str, ...]) -> bool:
    return PurePosixPath(parts[-1]).suffix.lower() in IMAGE_SUFFIXES


def _folder(root: Path) -> Files:
    def refuse(error: OSError) -> NoReturn:
        raise error

    paths, folders = [], set()
    above: dict[Path, tuple[tuple[int, int], ...]] = {root: (_inode(root),)}
    for name, below, names in os.walk(root, followlinks=True, onerror=refuse):
        folder = Path(name)
        lineage = above.pop(folder)
        below[:] = [name for name in below if not name.startswith(".") and name != "__MACOSX"]
        for child in [folder / name for name in below]:
            if (inode := _inode(child)) in lineage:
                raise ArtifactError(f"{child} is a link to a folder that it lies in")
            above[child] = (*lineage, inode)
        relative = folder.relative_to(root).parts
        folders.add(relative)
        paths += [(*relative, name) for name in names if _parts(name) and _is_image((name,))]
    ordered = tuple(sorted(paths))
    return Files(str(root), ordered, frozenset(folders), FromFolder(root, ordered))


@dataclass(frozen=True)
class FromFolder:
    """Reads the files of a folder."""

    root: Path
    paths: tuple[tuple[str, ...], ...]

    def __call__(self, index: int) -> bytes:
        """Content of the file of this number."""
        return self.root.joinpath(*self.paths[index]).read_bytes()


def _inode(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _members(
    handle: IO[bytes], folders: set[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], tarfile.TarInfo]]:
    """Images of a tar in its order; fills `folders`. The handle only moves forward."""
    with tarfile.open(fileobj=handle, mode="r:") as tar:
        for member in tar:
            parts = _parts(member.name)
            if parts and member.isdir():
                folders.add(parts)
            elif parts and member.isreg() and _is_image(parts):
                yield parts, member
        if handle.tell() <= tar.offset:
            # A whole tar ends in a block of zeros: without it, members may be missing.
            raise tarfile.ReadError("it ends early")


def _tar(path: Path) -> Files:
    """Plain tar: indexed once, then read by offset."""
    folders: set[tuple[str, ...]] = set()
    with path.open("rb") as handle:
        # A path that occurs twice was replaced: the last member counts, as when unpacking.
        positions = {
            parts: (member.offset_data, member.size) for parts, member in _members(handle, folders)
        }
    return Files(
        str(path), tuple(positions), frozenset(folders), _FromTar(path, tuple(positions.values()))
    )


@dataclass
class _FromTar:
    """Reads by offset; processes and threads may share its descriptor."""

    path: Path
    positions: tuple[tuple[int, int], ...]
    descriptor: int | None = None

    def __call__(self, index: int) -> bytes:
        if self.descriptor is None:
            self.descriptor = os.open(self.path, os.O_RDONLY)
        offset, size = self.positions[index]
        return os.pread(self.descriptor, size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "descriptor": None}


def _compressed_tar(path: Path) -> Files:
    """A compressed stream has no random access: one pass, the members' bytes stay in memory."""
    folders: set[tuple[str, ...]] = set()
    contents: dict[tuple[str, ...], bytes] = {}
    with path.open("rb") as raw:
        opener = OPENERS.get(raw.read(2))
        if opener is None:
            raise tarfile.ReadError("it is not compressed as its name says")
        raw.seek(0)
        # tarfile's own stream mode would check neither checksum nor end of the stream.
        with opener(raw) as handle:
            for parts, member in _members(handle, folders):
                handle.seek(member.offset_data)
                contents[parts] = handle.read(member.size)
            while handle.read(1 << 20):
                pass
    by_number = tuple(contents.values())
    return Files(str(path), tuple(contents), frozenset(folders), by_number.__getitem__)


def _zip(path: Path) -> Files:
    archive = zipfile.ZipFile(path)
    folders: set[tuple[str, ...]] = set()
    members: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    for member in archive.infolist():
        parts = _parts(member.filename)
        if parts and member.is_dir():
            folders.add(parts)
        elif parts and _is_image(parts):
            if member.flag_bits & 1:
                raise zipfile.BadZipFile("it is encrypted")
            members[parts] = member
    archive.close()
    return Files(
        str(path), tuple(members), frozenset(folders), _FromZip(path, tuple(members.values()))
    )


@dataclass
class _FromZip:
    """Reads members; each process opens the archive itself, since a shared offset would be moved."""

    path: Path
    members: tuple[zipfile.ZipInfo, ...]
    opened: tuple[int, zipfile.ZipFile] | None = None

    def __call__(self, index: int) -> bytes:
        if self.opened is None or self.opened[0] != os.getpid():
            self.opened = os.getpid(), zipfile.ZipFile(self.path)
        try:
            return self.opened[1].read(self.members[index])
        except DAMAGE as error:
            # A bad member is a bad image: the caller names or skips it.
            raise OSError(str(error)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}
