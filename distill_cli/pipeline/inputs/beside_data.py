"""Whether what is written would lie among the images that are read."""

from __future__ import annotations

from pathlib import Path

from distill_cli.data.class_folders import split_of
from distill_cli.errors import UsageError
from distill_cli.files import real_path


def check_beside_data(out: Path, data: str | None, *, file: bool = False) -> None:
    """Refuses a folder that the next command would take for a class, or in which it would seek images.

    Args:
        out: The folder that is written.
        data: The data spec; None where there is none.
        file: It is a file, which is no class, and would be said to be left out by whoever reads them.

    Raises:
        UsageError: It lies in the data's class folders, or beside them.
    """
    if data is None or not Path(data).is_dir():
        return
    folder, inside = real_path(data), real_path(out)
    if not inside.is_relative_to(folder):
        return
    first = inside.relative_to(folder).parts[:1]
    # Beside train/ and test/ other folders are no classes.
    splits = [entry.name for entry in folder.iterdir() if entry.is_dir() and split_of(entry.name)]
    if splits and first and first[0] not in splits:
        return
    taken = "" if file else ", and would be taken for one of its classes"
    raise UsageError(
        f"--out {out} lies among the images of {data}{taken}",
        hint="Choose another --out, outside of it",
    )
