"""Single picture files and those below folders, as the network that is asked sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from distill_cli.data.archives import open_files
from distill_cli.data.pillow_io import centre_crop, framed
from distill_cli.errors import UsageError
from distill_cli.types import EARLIER_FRAMING, PlainView


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and those below the folders, in order.

    Raises:
        UsageError: No path is given, or a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        image_paths = [path]
        if path.is_dir():
            inside = open_files(path)
            image_paths = [path.joinpath(*parts) for parts in inside.paths]
            if not image_paths:
                raise UsageError(f"{path} holds no images")
        files += image_paths
    if not files:
        raise UsageError("which images? None is given")
    return files


def read_picture(path: Path, view: PlainView) -> Image.Image:
    """A file's picture as training and `evaluate` see it: upright, in the view's size and channels.

    Raises:
        BAD_IMAGE: It cannot be read.
    """
    with Image.open(path) as image:
        return framed(image, (view.height, view.width), view.framing, view.channels)


def read_for_network(path: Path, channels: int, height: int, width: int) -> Image.Image:
    """A file's picture in the channels and size of a network that was saved without its view.

    Versions before 0.4.0 did so: first the channels, then the size.

    Raises:
        BAD_IMAGE: It cannot be read.
    """
    with Image.open(path) as image:
        return centre_crop(framed(image, None, EARLIER_FRAMING, channels), height, width)
