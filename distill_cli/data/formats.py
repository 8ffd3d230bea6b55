"""The image files that are read: one list of suffixes, and the decoders that may open them.

Pillow knows more formats. Some of its readers start other programs (EPS, PS: Ghostscript), or stand
for readers that others register (BUFR, GRIB, HDF5, WMF): those are never asked, whatever a file is
called.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import PIL
from PIL import Image, features

from distill_cli.errors import ArtifactError

# Pillow's format by suffix.
FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG2000"),
    **{".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".avif": "AVIF"},
    **{".tga": "TGA", ".ico": "ICO"},
}
# What versions up to 0.3.0 listed: their runs are gone on with on the same files.
SUFFIXES_THEN = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
# The decoders that a build of Pillow may lack, by format; the other formats need none.
DECODERS = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
NO_SUFFIX = f"its suffix ({{}}) is none of those that are read: {' '.join(sorted(FORMATS))}"
EMPTY = "the file is empty"
# Pictures of more megapixels are refused where nobody says; decoded, these take 800 MB.
MEGAPIXELS = 200
# Pixels that a byte of a file may stand for, in pictures of more than so many pixels: a page of one
# colour has fewer, and what has more is a damaged header that would be decoded for seconds.
PIXELS_OF_A_BYTE, EVEN_PIXELS = 10_000, 40_000_000
TOO_LARGE = "it has more than {} megapixels, the limit of --max-megapixels"
READ = tuple(dict.fromkeys(FORMATS.values()))
# Such pictures are refused, or were asked for.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, as `.png`; empty where it has none."""
    return PurePosixPath(name).suffix.lower()


def open_image(content: bytes, megapixels: int = MEGAPIXELS) -> Image.Image:
    """An image of one of our formats, whatever its suffix; of most only the header is read.

    Args:
        content: The content of its file.
        megapixels: One of more is refused.

    Raises:
        BAD_IMAGE: It is none, is damaged, or is too large.
    """
    if not content:
        raise OSError(EMPTY)
    return _opened(io.BytesIO(content), megapixels)


def open_image_file(path: Path, megapixels: int = MEGAPIXELS) -> Image.Image:
    """An image file that somebody names; it is one by the same list as those in a folder.

    Args:
        path: The file.
        megapixels: One of more is refused.

    Raises:
        BAD_IMAGE: Its suffix is none of ours, it cannot be read, or it is too large.
    """
    if suffix_of(path.name) not in FORMATS:
        raise OSError(NO_SUFFIX.format(suffix_of(path.name) or "none"))
    if not path.stat().st_size:
        raise OSError(EMPTY)
    return _opened(path, megapixels)


def _opened(file: io.BytesIO | Path, megapixels: int) -> Image.Image:
    # Pillow's own bound is one of all images; beyond twice of it, it decodes none, as in an icon.
    Image.MAX_IMAGE_PIXELS = megapixels * 1_000_000
    try:
        image = Image.open(file, formats=READ)
    except Image.DecompressionBombError:
        raise Image.DecompressionBombError(TOO_LARGE.format(megapixels)) from None
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise Image.DecompressionBombError(TOO_LARGE.format(megapixels))
    size = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())
    if image.width * image.height > max(EVEN_PIXELS, PIXELS_OF_A_BYTE * size):
        image.close()
        raise OSError(
            f"it says that it has {image.width} × {image.height} pixels, in {size:,} bytes"
        )
    return image


def is_decoded(image_format: str) -> bool:
    """Whether this build of Pillow decodes a format."""
    decoder = DECODERS.get(image_format)
    with warnings.catch_warnings():
        # Older versions warn about decoders that they do not know.
        warnings.simplefilter("ignore")
        return decoder is None or bool(features.check(decoder))


def check_decoders(names: Iterable[str]) -> None:
    """Refuses images that this build of Pillow cannot decode, before any is opened.

    Args:
        names: Paths of the images.

    Raises:
        ArtifactError: With the first image of such a format, and what to install.
    """
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(suffix_of(name), name)
    for suffix, name in sorted(first.items()):
        image_format = FORMATS.get(suffix)
        if image_format is not None and not is_decoded(image_format):
            raise ArtifactError(
                f"{name} is of the format {image_format}, which Pillow {PIL.__version__} as it is "
                "installed here cannot decode",
                hint="Install a build that can, by `pip install --upgrade --force-reinstall "
                "'pillow>=11.3'`; or convert such images",
            )
