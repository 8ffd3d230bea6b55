"""Which files of a folder or an archive are images, and what is left out while they are listed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distill_cli.data.formats import FORMATS, SUFFIXES_THEN, suffix_of
from distill_cli.data.inventory import Kind, Left
from distill_cli.types import DataVersion

COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVES = (".tar", ".zip", *COMPRESSED_TAR)
# Folders that systems put among a user's: their thumbnails, deleted files and snapshots are no data.
# Names are compared in lower case; the first list is what versions up to 0.3.0 knew.
SYSTEM_FOLDERS_THEN = frozenset(("__macosx",))
SYSTEM_FOLDERS = SYSTEM_FOLDERS_THEN | frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("@sharebin", "@sharesnap", "$recycle.bin", "system volume information", "lost+found"),
        "__pycache__",
    )
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which files are images, and which folders are not looked into.

    Attributes:
        suffixes: Suffixes of images, in lower case.
        system_folders: Names of folders that hold none of a user's files, in lower case.
    """

    suffixes: Collection[str]
    system_folders: Collection[str]

    def is_hidden(self, name: str) -> bool:
        """Whether a folder or file is none of the user's: hidden, or a system's."""
        return name.startswith(".") or name.lower() in self.system_folders

    def is_image(self, name: str) -> bool:
        """Whether a file name is that of an image."""
        return suffix_of(name) in self.suffixes


SELECTIONS: dict[DataVersion, Selection] = {
    "0.3.0": Selection(suffixes=SUFFIXES_THEN, system_folders=SYSTEM_FOLDERS_THEN),
    "0.4.0": Selection(suffixes=FORMATS, system_folders=SYSTEM_FOLDERS),
}


def is_archive(path: Path) -> bool:
    """Whether a file name is that of an archive we read."""
    return path.name.lower().endswith(ARCHIVES)


def path_in(where: str, parts: tuple[str, ...]) -> str:
    """A path inside a folder or archive, for messages."""
    return f"{where}{'!' if is_archive(Path(where)) else '/'}{'/'.join(parts)}"


class Listing:
    """Folders, and what is left out, while a folder or an archive is listed."""

    def __init__(self, where: str, selection: Selection) -> None:
        self.where, self.selection = where, selection
        self.folders: set[tuple[str, ...]] = set()
        self._left: dict[str, Left] = {}

    @property
    def left(self) -> tuple[Left, ...]:
        """What is left out, sorted by path."""
        return tuple(sorted(self._left.values()))

    def leave(self, parts: tuple[str, ...], kind: Kind, reason: str) -> None:
        """Notes what is left out, once."""
        where = path_in(self.where, parts)
        self._left.setdefault(where, Left(where, kind, reason))

    def is_shown(self, parts: tuple[str, ...], *, folder: bool) -> bool:
        """Whether neither it nor a folder above it is hidden; else it, or that folder, is noted."""
        for depth, name in enumerate(parts, start=1):
            if self.selection.is_hidden(name):
                what = "folder" if folder or depth < len(parts) else "file"
                shown = name if name.lower() in self.selection.system_folders else f"hidden {what}"
                self.leave(parts[:depth], "hidden", shown)
                return False
        return True

    def is_image(self, parts: tuple[str, ...]) -> bool:
        """Whether a file is an image by its name; else it is noted."""
        if not self.is_shown(parts, folder=False):
            return False
        if not self.selection.is_image(parts[-1]):
            self.leave(parts, "suffix", "its suffix is none of an image that is read")
            return False
        return True

    def parts(self, name: str, *, folder: bool) -> tuple[str, ...] | None:
        """Path parts of an archive's member; None where it is hidden or points outside.

        A folder is noted among the folders.
        """
        path = PurePosixPath(name)
        parts = tuple(part for part in path.parts if part != ".")
        if not parts:
            return None
        if path.is_absolute() or ".." in parts:
            if not folder:
                self.leave(parts, "place", "outside the archive")
            return None
        if not self.is_shown(parts, folder=folder):
            return None
        if folder:
            self.folders.add(parts)
        return parts
