"""Image files that are named one by one or by their folders, by the rules of a data spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill_cli.data.archives import open_files
from distill_cli.data.formats import check_decoders
from distill_cli.data.inventory import Left
from distill_cli.errors import UsageError


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[Left]]:
    """The files that are named and the images below folders, in order, and what lies beside these.

    Raises:
        UsageError: No path is given, or a folder holds no images.
        ArtifactError: This Pillow lacks a decoder for one of them.
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
        else:
            files.append(path)
    if not files:
        raise UsageError("which images? None is given")
    check_decoders(map(str, files))
    return files, left
