"""Single picture files and those below folders, as the network that is asked sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from distill_cli.data.archives import open_files
from distill_cli.data.formats import MEGAPIXELS, check_decoders, open_image_file
from distill_cli.data.inventory import Left
from distill_cli.data.pillow_io import centre_crop, framed
from distill_cli.errors import UsageError
from distill_cli.types import EARLIER_FRAMING, PlainView


def picture_files(paths: Sequence[Path]) -> tuple[list[Path], list[Left]]:
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


def read_picture(path: Path, view: PlainView, megapixels: int = MEGAPIXELS) -> Image.Image:
    """A file's picture as training and `evaluate` see it: upright, in the view's size and channels.

    Raises:
        BAD_IMAGE: It cannot be read, or has more megapixels.
    """
    with open_image_file(path, megapixels) as image:
        return framed(image, (view.height, view.width), view.framing, view.channels)


def read_for_network(
    path: Path, channels: int, height: int, width: int, megapixels: int = MEGAPIXELS
) -> Image.Image:
    """A file's picture in the channels and size of a network that was saved without its view.

    Versions before 0.4.0 did so: first the channels, then the size.

    Raises:
        BAD_IMAGE: It cannot be read, or has more megapixels.
    """
    with open_image_file(path, megapixels) as image:
        return centre_crop(framed(image, None, EARLIER_FRAMING, channels), height, width)
