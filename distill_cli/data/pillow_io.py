"""Single images with Pillow: modes, sizes, and the errors of damaged files."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from distill_cli.data.formats import READ
from distill_cli.data.source import Source
from distill_cli.data.upright import (
    TURNED_LEFT,
    TURNED_UP,
    orientation_tag,
    shown_size,
    upright,
)
from distill_cli.errors import ArtifactError, reason
from distill_cli.types import EARLIER_FRAMING, Background, Framing, Resize

# Exceptions that Pillow was seen to raise for damaged files, TypeError by its TIFF reader and
# RuntimeError by its AVIF reader, and others that code for damaged files raises.
BAD_IMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, RuntimeError),
    *(ArithmeticError, LookupError, AttributeError),
    Image.DecompressionBombError,
)
# PIL's modes of one channel; 16-bit ones are scaled to 8 bits.
GREY_MODES, DEEP_MODES = ("1", "L", "LA"), ("I;16", "I;16B", "I;16L", "I")

# By how much a JPEG's decoder can divide its sides.
SCALES = (1, 2, 4, 8)

Pixels = NDArray[np.uint8]
# The side of a square view, or height and width.
Size = int | tuple[int, int]


def is_grey(image: Image.Image) -> bool:
    """Whether an image has one channel, by its header."""
    return image.mode in (*GREY_MODES, *DEEP_MODES)


def without_colour(pixels: Pixels) -> Pixels:
    """Pixels (H, W, 3) as (H, W) where red, green and blue are equal all over; others as they are."""
    if pixels.ndim == 2:
        return pixels
    red = pixels[..., 0]
    return red if all(np.array_equal(red, pixels[..., c]) for c in (1, 2)) else pixels


def is_majority(count: int, total: int) -> bool:
    """Whether so many are more than half of all."""
    return 2 * count > total


def to_eight_bits(image: Image.Image, background: Background = "none") -> Image.Image:
    """An image in mode L where it is grey, else RGB; palettes are resolved.

    Args:
        image: An image in any mode.
        background: The colour behind transparent pixels; `none` drops alpha.
    """
    image.load()
    if image.mode in DEEP_MODES:
        deep = np.asarray(image, dtype=np.float64) / 257
        return Image.fromarray(np.clip(np.rint(deep), 0, 255).astype(np.uint8))
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if background != "none" and has_alpha(image):
        return _on_background(image, mode, background)
    if image.mode == "P":
        # Alpha is dropped in any case; Pillow would warn about it.
        image.info.pop("transparency", None)
    return image if image.mode == mode else image.convert(mode)


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may have transparent pixels: by channel, by palette, or one colour of all."""
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        return True
    return "transparency" in image.info or image.getbands()[-1] in ("A", "a")


def _on_background(image: Image.Image, mode: str, background: str) -> Image.Image:
    seen = image.convert("LA" if mode == "L" else "RGBA")
    canvas = Image.new(mode, image.size, background)
    canvas.paste(seen.convert(mode), mask=seen.getchannel("A"))
    return canvas


def framed(
    image: Image.Image, size: Size | None, framing: Framing, channels: int | None = None
) -> Image.Image:
    """An image as every verb sees it: upright, eight bits, resized, centre-cropped, channels last.

    Args:
        image: The opened image.
        size: Side, or height and width; None for the image's own.
        framing: Orientation, background, rounding and scale of decoding.
        channels: 1 for mode L, 3 for RGB; None for L where the image is grey, else RGB.
    """
    if size is not None and framing.decoding == "scaled":
        height, width = sides(size)
        shown = shown_size(image, framing.orientation)
        whole = decoded(image, framing, scale_for(image, shown, (width, height)))
        box = whole.box((0, 0, *shown))
        image = centre_crop(whole.image, height, width, framing.resize, shown, box)
    else:
        image = decoded(image, framing).image
        image = image if size is None else centre_crop(image, *sides(size), framing.resize)
    return image if channels is None else in_channels(image, channels)


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """An image in mode L for one channel, RGB for three."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def scale_for(image: Image.Image, part: tuple[int, int], view: tuple[int, int]) -> int:
    """The largest of `SCALES` at which a part of an image has no fewer pixels than the view.

    1 where the part is smaller than the view to begin with, and for what is no JPEG.

    Args:
        image: The opened image.
        part: Width and height of the part, in the image's own pixels.
        view: Width and height of the view.
    """
    if not isinstance(image, JpegImageFile) or not image.tile:
        return 1
    room = min(length // side for length, side in zip(part, view, strict=True))
    return max((scale for scale in SCALES if scale <= room), default=1)


@dataclass(frozen=True, kw_only=True)
class UprightImage:
    """A decoded picture, upright and in eight bits.

    Attributes:
        image: Its pixels.
        scale: How many of the file's pixels each stands for, along each side.
        left: Where the picture begins in the image: a last column of fewer pixels of the file may have
            been turned to the left.
        top: The same of rows.
    """

    image: Image.Image
    scale: int
    left: float
    top: float

    def box(self, part: Sequence[int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in the image of a part of the upright picture.

        Args:
            part: Left, top, width and height, in pixels of the file.
        """
        left, top, wide, high = part
        return (
            self.left + left / self.scale,
            self.top + top / self.scale,
            self.left + (left + wide) / self.scale,
            self.top + (top + high) / self.scale,
        )


def decoded(image: Image.Image, framing: Framing, scale: int = 1) -> UprightImage:
    """A whole picture, decoded at 1/scale of its size.

    Args:
        image: The opened image.
        framing: Orientation and background.
        scale: What `scale_for` gave for it.
    """
    left = top = 0.0
    if scale > 1:
        tag = orientation_tag(image, framing.orientation)
        over_x, over_y = (-side % scale / scale for side in shown_size(image, framing.orientation))
        left, top = over_x * (tag in TURNED_LEFT), over_y * (tag in TURNED_UP)
        image.draft(None, (image.width // scale, image.height // scale))
    image = to_eight_bits(upright(image, framing.orientation), framing.background)
    return UprightImage(image=image, scale=scale, left=left, top=top)


def to_pixels(image: Image.Image, size: Size | None, framing: Framing = EARLIER_FRAMING) -> Pixels:
    """An image as uint8 (H, W) where grey, else (H, W, 3), as `framed` says."""
    return np.asarray(framed(image, size, framing))


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def centre_crop(
    image: Image.Image,
    height: int,
    width: int,
    resize: Resize = "round",
    size: tuple[int, int] | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Scales an image until it covers (height, width), bilinear, and crops its centre.

    Under `floor` sizes and offsets are those of torchvision's Resize and CenterCrop, which timm
    evaluates with, and of timm's ResizeKeepRatio where the view is no square.

    Args:
        image: The image.
        height: Height of the crop.
        width: Width of the crop.
        resize: How the longer side is rounded.
        size: Width and height of the picture, where the image is a smaller one of it.
        box: Left, top, right and bottom of the picture in the image; None for all of it.
    """
    if image.size == (width, height):
        return image
    size = size or image.size
    scaled = _covering(size, height, width) if resize == "floor" else None
    if scaled is None:
        scale = max(width / size[0], height / size[1])
        scaled = max(width, round(size[0] * scale)), max(height, round(size[1] * scale))
    resized = image.resize(scaled, Image.Resampling.BILINEAR, box)
    over_x, over_y = resized.width - width, resized.height - height
    left, top = over_x // 2, over_y // 2
    if resize == "floor":
        # Half to the even number, as torchvision's.
        left, top = round(over_x / 2), round(over_y / 2)
    return resized.crop((left, top, left + width, top + height))


def _covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Width and height under `floor` of the resized image, by those of the picture."""
    if height == width:
        short = min(size)
        wide, high = (int(width * side / short) for side in size)
        return wide, high
    ratio = min(size[1] / height, size[0] / width)
    return max(width, round(size[0] / ratio)), max(height, round(size[1] / ratio))


def bad_image(source: Source, row: int, error: Exception) -> ArtifactError:
    """The error for an image that cannot be read."""
    return ArtifactError(
        f"cannot read image {source.where(row)}: {reason_of(error)}",
        hint="Replace it, or leave such images out with --skip-bad, which lists them in skipped.txt",
    )


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        # Pillow names its own buffer, and formats that are never asked.
        return f"it is of no format that is read ({', '.join(READ)})"
    if isinstance(error, Image.DecompressionBombError) and "--max-megapixels" not in str(error):
        return "a picture in it has more pixels than --max-megapixels allows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return reason(error)
