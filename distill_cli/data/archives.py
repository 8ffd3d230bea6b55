"""Image files in a folder or an archive, read without unpacking anything to disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from distill_cli.data.archive_bounds import Held, TarStream, member_fault, read_zip_member
from distill_cli.data.inventory import Left
from distill_cli.data.listing import COMPRESSED_TAR, SELECTIONS, Listing, path_in
from distill_cli.errors import ArtifactError, DistillError
from distill_cli.types import DataVersion

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


@dataclass(frozen=True)
class Files:
    """Image files by relative path.

    Attributes:
        where: Path of the folder or archive, for messages.
        paths: Parts of each image's path, as `("train", "cat", "1.png")`.
        folders: Parts of the path of every folder that was listed, empty folders included.
        read: Returns the content of the image of this number; safe to call from several threads.
        left: Files and folders that are none of the images.
        sizes: Bytes of each image in an archive; empty in a folder, which is asked.
    """

    where: str
    paths: tuple[tuple[str, ...], ...]
    folders: frozenset[tuple[str, ...]]
    read: Callable[[int], bytes]
    left: tuple[Left, ...] = ()
    sizes: tuple[int, ...] = ()

    def path(self, parts: tuple[str, ...]) -> str:
        """A path for messages: folder/split/class/file, or archive!split/class/file."""
        return path_in(self.where, parts)

    def size(self, index: int) -> int:
        """Bytes of the image of this number.

        Raises:
            OSError: It is gone.
        """
        if self.sizes:
            return self.sizes[index]
        return Path(self.where).joinpath(*self.paths[index]).stat().st_size

    def top(self) -> int:
        """1 where everything lies in one leading folder, as archives often have it, else 0."""
        tops = {parts[0] for parts in self.paths}
        deep = all(len(parts) > 2 for parts in self.paths)
        return int(len(tops) == 1 and deep and not tops & {"train", "test", "val"})


def open_files(path: Path, version: DataVersion = "0.4.0") -> Files:
    """The image files of a folder or archive.

    Args:
        path: The folder or archive.
        version: The version of distill by whose list of suffixes a file is an image.

    Raises:
        ArtifactError: The archive is damaged.
    """
    listing = Listing(str(path), SELECTIONS[version])
    with _damage(path):
        if path.is_dir():
            files = _folder(path, listing)
        elif path.name.lower().endswith(".zip"):
            files = _zip(path, listing)
        elif path.name.lower().endswith(COMPRESSED_TAR):
            files = _compressed_tar(path, listing)
        else:
            files = _tar(path, listing)
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
    except DistillError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # tarfile, zipfile and the decompressors raise many unrelated types on damaged archives.
        raise ArtifactError(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _folder(root: Path, listing: Listing) -> Files:
    def refuse(error: OSError) -> NoReturn:
        raise error

    paths = []
    above: dict[Path, tuple[tuple[int, int], ...]] = {root: (_inode(root),)}
    for name, below, names in os.walk(root, followlinks=True, onerror=refuse):
        folder = Path(name)
        lineage = above.pop(folder)
        relative = folder.relative_to(root).parts
        below[:] = [n for n in below if listing.is_shown((*relative, n), folder=True)]
        for child in [folder / name for name in below]:
            if (inode := _inode(child)) in lineage:
                raise ArtifactError(f"{child} is a link to a folder that it lies in")
            above[child] = (*lineage, inode)
        listing.folders.add(relative)
        paths += [(*relative, name) for name in names if listing.is_image((*relative, name))]
    ordered = tuple(sorted(paths))
    return Files(
        str(root), ordered, frozenset(listing.folders), FromFolder(root, ordered), listing.left
    )


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
    handle: TarStream, listing: Listing
) -> Iterator[tuple[tuple[str, ...], tarfile.TarInfo]]:
    """Images of a tar in its order; fills the listing. The handle only moves forward."""
    with tarfile.open(fileobj=handle, mode="r:") as tar:
        for member in tar:
            parts = listing.parts(member.name, folder=member.isdir())
            if parts is None or member.isdir():
                continue
            if not member.isreg():
                listing.leave(parts, "place", "links or devices in an archive")
            elif listing.is_image(parts):
                if member.issparse():
                    raise tarfile.ReadError(
                        f"{member.name} is stored with holes: pack it without --sparse"
                    )
                yield parts, member
        if handle.tell() <= tar.offset:
            # A whole tar ends in a block of zeros: without it, members may be missing.
            raise tarfile.ReadError("it ends early")


def _tar(path: Path, listing: Listing) -> Files:
    """Plain tar: indexed once, then read by offset."""
    with path.open("rb") as raw:
        handle = TarStream(raw)
        # A path that occurs twice was replaced: the last member counts, as when unpacking.
        positions = {
            parts: (member.offset_data, member.size) for parts, member in _members(handle, listing)
        }
    return Files(
        str(path),
        tuple(positions),
        frozenset(listing.folders),
        _FromTar(path, tuple(positions.values())),
        listing.left,
        tuple(size for _, size in positions.values()),
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
        if (fault := member_fault(size)) is not None:
            raise OSError(fault)
        content = os.pread(self.descriptor, size, offset)
        if len(content) != size:
            raise OSError("the archive ends early")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "descriptor": None}


def _compressed_tar(path: Path, listing: Listing) -> Files:
    """A compressed stream has no random access: one pass, the members' bytes stay in memory."""
    contents: dict[tuple[str, ...], bytes] = {}
    held = Held(str(path))
    with path.open("rb") as raw:
        opener = OPENERS.get(raw.read(2))
        if opener is None:
            raise tarfile.ReadError("it is not compressed as its name says")
        raw.seek(0)
        # tarfile's own stream mode would check neither checksum nor end of the stream.
        with opener(raw) as unpacked:
            handle = TarStream(unpacked, raw)
            for parts, member in _members(handle, listing):
                if (fault := member_fault(member.size)) is not None:
                    raise tarfile.ReadError(f"{member.name}: {fault}")
                held.add(member.size)
                contents[parts] = handle.content(member)
            handle.to_the_end()
    by_number = tuple(contents.values())
    return Files(
        str(path),
        tuple(contents),
        frozenset(listing.folders),
        by_number.__getitem__,
        listing.left,
        tuple(map(len, by_number)),
    )


def _zip(path: Path, listing: Listing) -> Files:
    archive = zipfile.ZipFile(path)
    members: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    for member in archive.infolist():
        parts = listing.parts(member.filename, folder=member.is_dir())
        if parts and not member.is_dir() and listing.is_image(parts):
            if member.flag_bits & 1:
                raise zipfile.BadZipFile("it is encrypted")
            members[parts] = member
    archive.close()
    return Files(
        str(path),
        tuple(members),
        frozenset(listing.folders),
        _FromZip(path, tuple(members.values())),
        listing.left,
        tuple(member.file_size for member in members.values()),
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
            return read_zip_member(self.opened[1], self.members[index])
        except OSError:
            raise
        except Exception as error:
            # A bad member is a bad image: the caller names or skips it.
            raise OSError(_reason(error)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}
