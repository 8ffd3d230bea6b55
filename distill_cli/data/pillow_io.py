"""Single images with Pillow: modes, sizes, and the errors of damaged files."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from distill_cli.data.formats import READ
from distill_cli.data.source import Source
from distill_cli.errors import ArtifactError

# Exceptions that Pillow was seen to raise for damaged files; TypeError by its TIFF reader.
BAD_IMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error),
    Image.DecompressionBombError,
)
# PIL's modes of one channel; 16-bit ones are scaled to 8 bits.
GREY_MODES, DEEP_MODES = ("1", "L", "LA"), ("I;16", "I;16B", "I;16L", "I")

Pixels = NDArray[np.uint8]


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


def to_eight_bits(image: Image.Image) -> Image.Image:
    """An image in mode L where it is grey, else RGB: alpha is dropped, palettes are resolved."""
    image.load()
    if image.mode in DEEP_MODES:
        deep = np.asarray(image, dtype=np.float64) / 257
        return Image.fromarray(np.clip(np.rint(deep), 0, 255).astype(np.uint8))
    if image.mode in GREY_MODES:
        return image if image.mode == "L" else image.convert("L")
    if image.mode != "RGB":
        if image.mode == "P":
            # Alpha is dropped in any case; Pillow would warn about it.
            image.info.pop("transparency", None)
        return image.convert("RGB")
    return image


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """An image in mode L for one channel, RGB for three."""
    return to_eight_bits(image).convert("L" if channels == 1 else "RGB")


def to_pixels(image: Image.Image, size: int | None) -> Pixels:
    """An image as uint8 (H, W) where grey, else (H, W, 3); resized and centre-cropped to `size`."""
    image = to_eight_bits(image)
    return np.asarray(image if size is None else centre_crop(image, size, size))


def centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scales an image until it covers (height, width), bilinear, and crops its centre."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    resized = image.resize(
        (max(width, round(image.width * scale)), max(height, round(image.height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        # Pillow names its own buffer, and formats that are never asked.
        return f"it is of no format that is read ({', '.join(READ)})"
    return (str(error).splitlines() or [type(error).__name__])[0]


def bad_image(source: Source, row: int, error: Exception) -> ArtifactError:
    """The error for an image that cannot be read."""
    return ArtifactError(
        f"cannot read image {source.where(row)}: {reason_of(error)}",
        hint="Replace it, or leave such images out with --skip-bad, which lists them in skipped.txt",
    )
