"""Which way up a picture is shown, by its EXIF tag."""

from __future__ import annotations

from PIL import Image
from PIL.ExifTags import Base

from distill_cli.types import Orientation

# How to undo each EXIF orientation: its name says where the first row and column are.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations whose pixels lie on their side, and where Pillow notes the tags of a PNG.
SIDEWAYS, PNG_TAGS = (5, 6, 7, 8), frozenset({"exif", "Raw profile type exif"})
# The orientations which turn the last column or row of the pixels in a file to the left, and to the top.
TURNED_LEFT, TURNED_UP = (2, 3, 6, 7), (3, 4, 7, 8)


def upright(image: Image.Image, orientation: Orientation) -> Image.Image:
    """An image as viewers show it: turned by its EXIF tag, if that is asked for."""
    turn = TURNS.get(orientation_tag(image, orientation))
    return image if turn is None else image.transpose(turn)


def shown_size(image: Image.Image, orientation: Orientation) -> tuple[int, int]:
    """Width and height of the upright image, by its header."""
    width, height = image.size
    return (height, width) if orientation_tag(image, orientation) in SIDEWAYS else (width, height)


def orientation_tag(image: Image.Image, orientation: Orientation) -> int:
    """The EXIF orientation of an image that is not decoded yet; 1 where it lies as it is shown.

    Pillow itself turns a TIFF. It would decode a whole PNG to look for a tag behind the pixels,
    which other readers ignore too.
    """
    late = image.format == "PNG" and not PNG_TAGS.intersection(image.info)
    if orientation == "stored" or image.format == "TIFF" or late:
        return 1
    try:
        return int(image.getexif().get(Base.Orientation, 1))
    except Exception:
        # A damaged tag stops no viewer, and Pillow raises any exception on one.
        return 1
