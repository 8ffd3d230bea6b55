"""Image files that are named one by one or by their folders, by the rules of a data spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill_cli.data.archives import open_files
from distill_cli.data.formats import FORMATS, check_decoders, suffix_of
from distill_cli.data.inventory import Left
from distill_cli.errors import ArtifactError, UsageError


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[Left]]:
    """The image files among paths and below folders, in order, and what the folders hold beside them.

    A file that is named is an image by the same list of suffixes as one in a folder.

    Raises:
        UsageError: No path is given, or a folder holds no images.
        ArtifactError: A named file is no image by its suffix, or this Pillow lacks a decoder.
    """
    files: list[Path] = []
    left: list[Left] = []
    for path in paths:
        if path.is_dir():
            inside = open_files(path)
            if not inside.paths:
                raise UsageError(f"{path} holds no images")
            files += [path.joinpath(*parts) for parts in inside.paths]
            left += inside.left
        elif suffix_of(path.name) not in FORMATS:
            raise ArtifactError(
                f"{path} is no image by its suffix, which is none of {', '.join(sorted(FORMATS))}",
                hint="Rename it if it is one of these, or convert it",
            )
        else:
            files.append(path)
    if not files:
        raise UsageError("which images? None is given")
    check_decoders(map(str, files))
    return files, left
