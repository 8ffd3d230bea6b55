"""Bounds of archives from anywhere: of a member, of what a compressed stream unpacks to, of a header."""

from __future__ import annotations

import bz2
import io
import tarfile
import zipfile
from copy import copy
from dataclasses import dataclass
from typing import IO
from zlib import crc32

from distill_cli.errors import ArtifactError, counted
from distill_cli.readers.bounds import memory

# Bytes of one image: 15 times those of the largest photographs.
MEMBER_BYTES = 256 << 20
# What compressed images shrink by is a few per cent; the densest stream of zeros has a ratio of 1,032.
RATIO = 200
# Bytes that may come out whatever went in: a small picture of one colour is no bomb.
HARMLESS_BYTES = 1 << 20
# Bytes of a header inside a tar: a name, or a list of attributes.
HEADER_BYTES = 1 << 20
# Bytes of a step of unpacking: lzma's, which are not bound, make some 30 MB of them.
STEP = 1 << 12


def member_fault(size: int, packed: int | None = None) -> str | None:
    """Why a member of an archive is not read, by its header; None where it is.

    Args:
        size: Its bytes.
        packed: Its bytes in a compressed archive.
    """
    if size > MEMBER_BYTES:
        return f"it has {counted(size, 'byte')}, an image at most {MEMBER_BYTES:,}"
    if packed is not None and size > max(HARMLESS_BYTES, RATIO * packed):
        return f"it unpacks to over {RATIO} times its size, as no image does"
    return None


def read_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The content of a zip's member, as long as its header says.

    Raises:
        OSError: It is larger than an image, unpacks to over 200 times its size, or has another size
            than its header says.
        Exception: Any that `zipfile` raises on damaged members.
    """
    if (fault := member_fault(member.file_size, member.compress_size)) is not None:
        raise OSError(fault)
    if member.compress_type == zipfile.ZIP_BZIP2:
        content = _from_bz2(archive, member)
    else:
        with archive.open(member) as handle:
            content = b"".join(iter(lambda: handle.read(STEP), b""))
    if len(content) != member.file_size:
        raise OSError(
            f"it has {counted(len(content), 'byte')}, its header says {member.file_size:,}"
        )
    return content


def _from_bz2(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The content of a member that bz2 packed, one byte more than its header says at most.

    `zipfile` unpacks some bytes at a time, and to all that comes of them: of a few bytes of bz2 that
    may be gigabytes.
    """
    stored = copy(member)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, member.compress_size
    del stored.CRC
    with archive.open(stored) as handle:
        content = bz2.BZ2Decompressor().decompress(handle.read(), member.file_size + 1)
    if crc32(content) != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
    return content


class TarStream(io.RawIOBase):
    """A tar for `tarfile`, which reads headers from it and nothing else.

    Args:
        handle: The tar's bytes, unpacked.
        raw: The compressed file below it; None where it is not compressed.
    """

    def __init__(self, handle: IO[bytes], raw: IO[bytes] | None = None) -> None:
        self.handle, self.raw = handle, raw

    def read(self, size: int = -1) -> bytes:
        """So many bytes of a header.

        Raises:
            tarfile.ReadError: No header is so long, or the stream unpacks to over 200 times its size.
        """
        if not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._checked(self.handle.read(size))

    def content(self, member: tarfile.TarInfo) -> bytes:
        """The content of a member.

        Raises:
            tarfile.ReadError: It ends early, or as for `read`.
        """
        self.seek(member.offset_data)
        content = self._checked(self.handle.read(member.size))
        if len(content) != member.size:
            raise tarfile.ReadError("it ends early")
        return content

    def to_the_end(self) -> None:
        """Reads the rest, so that checksum and end of a compressed stream are checked."""
        while self._checked(self.handle.read(HEADER_BYTES)):
            pass

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes forward to a position; a compressed stream is unpacked up to there.

        Raises:
            tarfile.ReadError: As for `read`.
        """
        assert whence == io.SEEK_SET
        while self.raw is not None and offset - self.handle.tell() > HEADER_BYTES:
            if not self._checked(self.handle.read(HEADER_BYTES)):
                break
        return self.handle.seek(offset)

    def tell(self) -> int:
        """The position."""
        return self.handle.tell()

    def _checked(self, content: bytes) -> bytes:
        if self.raw is not None:
            packed, unpacked = self.raw.tell(), self.handle.tell()
            if unpacked > max(HARMLESS_BYTES, RATIO * packed):
                raise tarfile.ReadError(
                    f"it unpacks to over {RATIO} times its size, as no images do"
                )
        return content


@dataclass
class Held:
    """Counts the bytes of images that are held in memory.

    Attributes:
        where: Path of the archive, for messages.
        size: Bytes so far.
    """

    where: str
    size: int = 0

    def add(self, size: int) -> None:
        """Counts an image.

        Raises:
            ArtifactError: There is not so much memory.
        """
        self.size += size
        if self.size > memory():
            raise ArtifactError(
                f"{self.where} unpacks to more than the {memory() / 1e9:.1f} GB of memory that "
                "there are: a compressed tar is held in memory",
                hint="Unpack it into a folder, or into a .tar that is not compressed",
            )
