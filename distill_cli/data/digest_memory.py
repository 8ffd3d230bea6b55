"""Content hashes of files, remembered by path, size and time of change."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, NamedTuple

from distill_cli.data.disk_cache import FORMAT, Stat, cache_folder, is_settled
from distill_cli.errors import DistillError
from distill_cli.files import real_path, write_text


class Note(NamedTuple):
    """What is remembered of an image file.

    Attributes:
        digest: Content digest in hexadecimal; empty where a dry run did not open it.
        width: Pixels.
        height: Pixels.
        grey: Whether it is stored as grey.
        decoded: Whether it was decoded to the end.
        grey_pixels: Whether its pixels are grey, however it is stored; None where nobody looked.
    """

    digest: str
    width: int
    height: int
    grey: bool
    decoded: bool
    grey_pixels: bool | None = None


# The note of an image that a dry run does not open.
UNSEEN = Note("", 0, 0, True, False)


class Digests:
    """A JSON value for each file (its digest and more), remembered by path, size and times.

    Args:
        data: Name of the dataset.
        kind: What is noted of a file, where the same files are read in several ways.
    """

    def __init__(self, data: str, kind: str = "") -> None:
        name = blake2b(f"{real_path(data)}{kind}".encode(), digest_size=16).hexdigest()
        self.file = cache_folder() / "digests" / f"{name}.json"
        self.seen: dict[str, list[Any]] = {}
        try:
            kept = json.loads(self.file.read_text())
            if kept.pop("format") == FORMAT:
                self.seen = kept["seen"]
        except (OSError, ValueError, KeyError, AttributeError):
            pass
        self.changed = False

    def get(self, path: str, stat: Stat) -> Any | None:
        """The value of a file; None where the file is new or may have changed."""
        noted = self.seen.get(path)
        return noted[1] if noted is not None and tuple(noted[0]) == stat else None

    def note(self, path: str, stat: Stat, value: Any) -> None:
        """Remembers a JSON value of a file, unless it changed a moment ago."""
        if is_settled(stat):
            self.seen[path] = [list(stat), value]
            self.changed = True

    def save(self) -> None:
        """Writes new values to disk; a failure is no error."""
        if not self.changed:
            return
        text = json.dumps({"format": FORMAT, "seen": self.seen}, separators=(",", ":"))
        try:
            write_text(self.file, text)
        except DistillError:
            return
