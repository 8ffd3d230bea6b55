"""Content hashes of files, remembered by path, size and time of change."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, NamedTuple

from distill_cli.data.disk_cache import FORMAT, Stat, cache_folder, is_settled
from distill_cli.errors import ArtifactError, DistillError
from distill_cli.files import real_path, write_text
from distill_cli.readers.bounds import LISTS
from distill_cli.readers.json_values import read_json


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

    def checked(self) -> Note:
        """The note itself.

        Raises:
            TypeError, ValueError: It was damaged.
        """
        bytes.fromhex(self.digest)
        sizes = [type(side) is int and 0 < side < MOST_PIXELS for side in (self.width, self.height)]
        flags = [type(flag) is bool for flag in (self.grey, self.decoded)]
        if not all(sizes + flags) or self.grey_pixels not in (True, False, None):
            raise ValueError("no note of an image")
        return self


# More pixels than a side of any picture has.
MOST_PIXELS = 1 << 20
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
            kept = read_json(self.file, LISTS)
            if kept["format"] == FORMAT and isinstance(kept["seen"], dict):
                self.seen = kept["seen"]
        except (ArtifactError, KeyError, TypeError):
            pass
        self.changed = False

    def get(self, path: str, stat: Stat) -> Note | None:
        """The note of a file; None where the file is new or may have changed."""
        noted = self._value(path, stat)
        try:
            return Note(*noted).checked() if isinstance(noted, list) else None
        except (TypeError, ValueError):
            return None

    def content(self, path: str, stat: Stat) -> bytes | None:
        """The content digest of a file of which nothing else is remembered; None as for `get`."""
        noted = self._value(path, stat)
        try:
            return bytes.fromhex(noted) if isinstance(noted, str) else None
        except ValueError:
            return None

    def _value(self, path: str, stat: Stat) -> Any:
        noted = self.seen.get(path)
        if not isinstance(noted, list) or len(noted) != 2 or noted[0] != list(stat):
            return None
        return noted[1]

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
