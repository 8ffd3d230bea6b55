"""Places that several machines reach: a folder, or an address that fsspec knows (`s3://…`). Torch-free.

A folder is written as any folder is, by the room `files`. Elsewhere a file is stored by one call of
fsspec's; object stores show it whole or not at all, and whoever reads it compares its hash.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from distill_cli.errors import ArtifactError, InternalError, UsageError, reason
from distill_cli.files import below, remove, sha256, write_atomically, write_bytes

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
BLOCK = 1 << 20
# Packages of protocols, beside those that are extras of ours.
EXTRAS = {"s3": "s3", "s3a": "s3"}
DRIVERS = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class Place(Protocol):
    """Somewhere that files lie, by paths with forward slashes."""

    def address(self, file: str = "") -> str:
        """The address of a file, or of the place itself, for a person."""

    def sizes(self) -> dict[str, int]:
        """The length in bytes of every file in the place, and below it."""

    def content(self, file: str, most: int | None = None) -> bytes | None:
        """A file's content, of at most so many bytes; None where there is none."""

    def digest(self, file: str) -> str | None:
        """sha256 of a file as it lies there, hexadecimal; None where there is none."""

    def store(self, file: str, content: bytes) -> None:
        """Stores a file, or replaces it."""

    def upload(self, source: Path, file: str) -> None:
        """Stores a file of this machine."""

    def download(self, file: str, target: Path, expected: str | None) -> None:
        """Stores a file on this machine, atomically, if its sha256 is as expected."""

    def remove(self, file: str) -> None:
        """Removes a file; nothing where there is none."""


def place_of(name: str) -> Place:
    """The place of a name on the command line; nothing is asked of it yet.

    Raises:
        UsageError: There is no such kind of address, or its package is not installed.
    """
    if "://" not in name:
        return FolderPlace(Path(name))
    match = ADDRESS.fullmatch(name)
    protocol, path = (match[1], match[2].strip("/")) if match else ("", "")
    if match is not None and protocol in ("file", "local"):
        return FolderPlace(Path(match[2]))
    if not path or ".." in path.split("/"):
        raise UsageError(f"'{name}' names no place", hint="Say as in s3://bucket/folder")
    import fsspec

    try:
        system = fsspec.filesystem(protocol, use_listings_cache=False)
    except ValueError:
        raise UsageError(f"'{name}': there is no protocol {protocol}://") from None
    except ImportError as error:
        package = DRIVERS.get(protocol)
        extra = EXTRAS.get(protocol)
        wanted = f"'distill-cli[{extra}]'" if extra else package
        raise UsageError(
            f"{protocol}:// needs a package that is not installed here",
            hint=f"pip install {wanted}" if wanted else reason(error),
        ) from None
    except Exception as error:
        raise UsageError(f"{protocol}:// cannot be used: {reason(error)}") from None
    return RemotePlace(system, protocol, path)


def checked(target: Path, blocks: Iterator[bytes], address: str, expected: str | None) -> None:
    """Stores blocks of bytes as a file, atomically, if their sha256 is as expected.

    Raises:
        ArtifactError: It is not; nothing is stored.
    """

    def write(handle: BinaryIO) -> None:
        hashed = hashlib.sha256()
        for block in blocks:
            hashed.update(block)
            handle.write(block)
        if expected is not None and hashed.hexdigest() != expected:
            raise ArtifactError(
                f"{address} was changed: sha256 {hashed.hexdigest()[:12]}…, expected {expected[:12]}…",
                hint="Push it again from where it is whole",
            )

    write_atomically(target, write)


class FolderPlace:
    """A folder, as on a disk that machines share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def address(self, file: str = "") -> str:
        """Its path."""
        return str(self.folder / file)

    def sizes(self) -> dict[str, int]:
        """The length of every plain file."""
        found = {}
        for inner, _, names in os.walk(self.folder):
            for path in (Path(inner, name) for name in names):
                if path.is_file() and not path.is_symlink():
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return found

    def content(self, file: str, most: int | None = None) -> bytes | None:
        """The file's content."""
        path = self.folder / file
        if not path.is_file() or path.is_symlink():
            return None
        with path.open("rb") as handle:
            return bounded(handle.read(-1 if most is None else most + 1), most, self.address(file))

    def digest(self, file: str) -> str | None:
        """Its hash."""
        path = self.folder / file
        return sha256(path) if path.is_file() and not path.is_symlink() else None

    def store(self, file: str, content: bytes) -> None:
        """Writes it."""
        with below(self.folder):
            write_bytes(self.folder / file, content)

    def upload(self, source: Path, file: str) -> None:
        """Copies it."""
        with below(self.folder), source.open("rb") as handle:
            checked(self.folder / file, read_blocks(handle.read), str(source), None)

    def download(self, file: str, target: Path, expected: str | None) -> None:
        """Copies it."""
        path = self.folder / file
        if not path.is_file() or path.is_symlink():
            raise ArtifactError(f"{path} is missing")
        with path.open("rb") as handle:
            checked(target, read_blocks(handle.read), self.address(file), expected)

    def remove(self, file: str) -> None:
        """Removes it."""
        with below(self.folder):
            remove(self.folder / file)


class RemotePlace:
    """A place behind an address.

    Args:
        system: fsspec's file system.
        protocol: The address up to ://.
        path: The rest, without a slash at its ends.
    """

    def __init__(self, system: Any, protocol: str, path: str) -> None:
        self.system, self.protocol, self.path = system, protocol, path

    def address(self, file: str = "") -> str:
        """Its address."""
        return f"{self.protocol}://{self._path(file)}"

    def _path(self, file: str) -> str:
        return f"{self.path}/{file}" if file else self.path

    def sizes(self) -> dict[str, int]:
        """The length of every file."""
        with self._failing(""):
            try:
                found = self.system.find(self.path, detail=True)
            except FileNotFoundError:
                return {}
        root = self.system._strip_protocol(self.path)
        return {
            str(path)[len(root) :].lstrip("/"): int(info["size"]) for path, info in found.items()
        }

    def content(self, file: str, most: int | None = None) -> bytes | None:
        """The object's content."""
        with self._failing(file):
            try:
                with self.system.open(self._path(file), mode="rb") as handle:
                    read: bytes = handle.read(-1 if most is None else most + 1)
            except FileNotFoundError:
                return None
        return bounded(read, most, self.address(file))

    def digest(self, file: str) -> str | None:
        """Its hash; it is read for that."""
        hashed = hashlib.sha256()
        with self._failing(file):
            try:
                with self.system.open(self._path(file), mode="rb") as handle:
                    for block in read_blocks(handle.read):
                        hashed.update(block)
            except FileNotFoundError:
                return None
        return hashed.hexdigest()

    def store(self, file: str, content: bytes) -> None:
        """Puts an object."""
        with self._failing(file):
            self.system.pipe_file(self._path(file), content)

    def upload(self, source: Path, file: str) -> None:
        """Puts an object, in parts where it is large."""
        with self._failing(file):
            self.system.put_file(str(source), self._path(file))

    def download(self, file: str, target: Path, expected: str | None) -> None:
        """Gets an object."""
        with self._failing(file), self.system.open(self._path(file), mode="rb") as handle:
            checked(target, read_blocks(handle.read), self.address(file), expected)

    def remove(self, file: str) -> None:
        """Removes an object."""
        with self._failing(file):
            try:
                self.system.rm_file(self._path(file))
            except FileNotFoundError:
                return

    @contextmanager
    def _failing(self, file: str) -> Iterator[None]:
        """Turns the errors of drivers, which are of many kinds, into ours."""
        try:
            yield
        except (ArtifactError, InternalError, UsageError):
            raise
        except (FileNotFoundError, PermissionError) as error:
            raise UsageError(f"{self.address(file)}: {reason(error)}") from None
        except Exception as error:
            kind = UsageError if "Credentials" in type(error).__name__ else InternalError
            raise kind(
                f"{self.address(file)}: {reason(error)}",
                hint="What has been copied stays: run the same command again",
            ) from None


def read_blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What a file has left, block by block."""
    while block := read(BLOCK):
        yield block


def bounded(content: bytes, most: int | None, address: str) -> bytes:
    """The content, if it is of at most so many bytes.

    Raises:
        ArtifactError: It is longer.
    """
    if most is not None and len(content) > most:
        raise ArtifactError(f"{address} has more than {most:,} bytes")
    return content
