"""CSVs that list image files: their rows, and the images of one that is learnt from without labels."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from distill_cli.data.archives import Files, FromFolder
from distill_cli.data.class_folders import SPLITS, split_of
from distill_cli.data.formats import FORMATS, NO_SUFFIX, suffix_of
from distill_cli.data.source import WHOLE, FileSource, digest
from distill_cli.errors import ArtifactError, counted
from distill_cli.readers.bounds import read_bounded
from distill_cli.readers.csv_rows import TABLE_BYTES, csv_rows
from distill_cli.types import UNLABELLED

FILE, SPLIT = "file", "split"


def listed_images(path: Path) -> dict[str, FileSource]:
    """The images of a CSV, without labels, by split; as one split, `train`, without a column `split`.

    Columns but `file` and `split` are not looked at, and need not be there.

    Raises:
        ArtifactError: A row is unusable; the message names it. Or none is of train.
    """
    content = csv_content(path)
    header, lines = csv_lines(path, content)
    if header.count(FILE) != 1 or header.count(SPLIT) > 1:
        raise ArtifactError(
            f"{path} has the columns {', '.join(header) or 'of none'}",
            hint="It needs one that is called file, and may have one that is called split",
        )
    rows: dict[str, tuple[str, ...]] = {}
    split_of_row: dict[str, str] = {}
    for number, cells in lines:
        where = f"{path}, row {number}"
        if len(cells) != len(header):
            raise ArtifactError(
                f"{where} has {counted(len(cells), 'cell')}, the header has {len(header)}"
            )
        values = dict(zip(header, map(str.strip, cells), strict=True))
        parts = image_parts(path.parent, where, values[FILE])
        check_suffix(where, parts)
        if rows.setdefault("/".join(parts), parts) is not parts:
            raise ArtifactError(f"{where} is of {'/'.join(parts)}, as an earlier row is")
        named = values.get(SPLIT)
        split_of_row["/".join(parts)] = "train" if named is None else split_named(where, named)
    if "train" not in split_of_row.values():
        raise ArtifactError(f"{path} lists no images to learn from")
    ordered = sorted(rows, key=os.fsencode)
    paths = tuple(rows[name] for name in ordered)
    files = Files(str(path.parent), paths, frozenset(), FromFolder(path.parent, paths))
    numbered = [(number, name, UNLABELLED) for number, name in enumerate(ordered)]
    return {
        split: FileSource(
            files,
            tuple(row for row in numbered if split_of_row[row[1]] == split),
            () if SPLIT in header else WHOLE,
            listing=digest(content).hex(),
        )
        for split in SPLITS
        if split in split_of_row.values()
    }


def split_named(where: str, name: str) -> str:
    """The split that a row names.

    Raises:
        ArtifactError: It is none.
    """
    split = split_of(name)
    if split is None:
        raise ArtifactError(f"{where}: split '{name}' is none of {', '.join(SPLITS)}")
    return split


def check_suffix(where: str, parts: tuple[str, ...]) -> None:
    """Refuses a file that is no image by the list that folders and `predict` go by."""
    suffix = suffix_of(parts[-1])
    if suffix not in FORMATS:
        raise ArtifactError(
            f"{where}: {'/'.join(parts)} is no image: {NO_SUFFIX.format(suffix or 'none')}",
            hint="Rename it, or convert it",
        )


def csv_content(path: Path) -> bytes:
    """The bytes of a CSV of bounded size."""
    try:
        return read_bounded(path, TABLE_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def csv_lines(path: Path, content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each row that is not empty with its number; the header is row 1."""
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        lines = [cells for _, cells in csv_rows(text, strict=True)]
    except ValueError as error:
        raise ArtifactError(f"{path} is no CSV in UTF-8: {error}") from None
    header = [cell.strip() for cell in lines[0]] if lines else []
    return header, [(number, cells) for number, cells in enumerate(lines[1:], start=2) if cells]


def image_parts(folder: Path, where: str, file: str) -> tuple[str, ...]:
    """The parts of a path, which must name an existing file below the folder."""
    file = file.replace("\\", "/")
    name, drive = PurePosixPath(file), PureWindowsPath(file).drive
    if not file or name.is_absolute() or drive or ".." in name.parts:
        raise ArtifactError(
            f"{where}: '{file}' is no path below the folder of the CSV",
            hint="Paths are relative to it",
        )
    try:
        is_file = folder.joinpath(*name.parts).is_file()
    except (OSError, ValueError) as error:
        # Python says of most paths that no file can have that there is none; not of one too long.
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{where}: '{file:.60}…' is no path of a file: {reason}") from None
    if not is_file:
        raise ArtifactError(f"{where}: there is no file {folder.joinpath(*name.parts)}")
    return name.parts
