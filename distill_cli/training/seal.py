"""The checksum of an archive that torch writes: its comment, the sha256 of all that is before it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

# The comment of the archive, before the 64 digits of the sum.
SEAL, DIGITS = b"distill sha256 ", 64
# An archive's last record without a comment: its mark, and the comment's length, which comes last.
_END, _END_SIZE = b"PK\x05\x06", 22


def seal(archive: io.BytesIO) -> None:
    """Appends the checksum to an archive that torch wrote."""
    end = archive.seek(-_END_SIZE, io.SEEK_END)
    assert archive.read().startswith(_END), "torch writes no comment"
    archive.seek(end + _END_SIZE - 2)
    archive.write((len(SEAL) + DIGITS).to_bytes(2, "little") + SEAL)
    archive.write(hashlib.sha256(archive.getbuffer()).hexdigest().encode())


def check_sum(path: Path) -> bool:
    """Checks the checksum behind an archive.

    Returns:
        Whether there is one.

    Raises:
        ValueError: The bytes before it are not those that it was made of.
    """
    with path.open("rb") as file:
        left = file.seek(0, io.SEEK_END) - DIGITS
        file.seek(max(0, left - len(SEAL)))
        if not file.read().startswith(SEAL):
            return False
        file.seek(0)
        hashed = hashlib.sha256()
        while left and (block := file.read(min(left, 1 << 20))):
            hashed.update(block)
            left -= len(block)
        if hashed.hexdigest().encode() != file.read():
            raise ValueError("its checksum does not agree")
    return True


def check_archive(path: Path, *, sums: bool) -> None:
    """Checks that an archive is not compressed, and its own sums, which torch writes and does not read."""
    with zipfile.ZipFile(path) as archive:
        # Ours is not compressed: what is may grow without an end.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")
        if sums and (entry := archive.testzip()) is not None:
            raise ValueError(f"its part {entry} is damaged")
