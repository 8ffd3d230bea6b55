"""The options of how pictures in files become images, and how often each file is read."""

from __future__ import annotations

from typing import Any

from distill_cli.recipe.fields import DATA, TRAINING, option

RESIZE: Any = option(
    None,
    "How the longer side is rounded where pictures are resized: floor, as torchvision and timm "
    "do, or round, as before 0.4.0 (floor).",
    DATA,
    advanced=True,
)
ORIENTATION: Any = option(
    None,
    "exif: pictures are turned as their EXIF tag says; stored: as they lie in the file (exif).",
    DATA,
    advanced=True,
)
BACKGROUND: Any = option(
    None,
    "What shows behind transparent pixels: white, black, or none, which drops alpha (white).",
    DATA,
    advanced=True,
)
DECODING: Any = option(
    None,
    "scaled: a JPEG is decoded at a half, a quarter or an eighth where what is cut out of it stays at "
    "least as large as the view: faster, other pixels; full: at its own size (full).",
    DATA,
    advanced=True,
)
VIEWS_PER_READ: Any = option(
    1,
    "Views of an image that are made of one read of its file, side by side in a batch: a block of as "
    "many epochs shows every image once in each, and is otherwise as long as before. For images that "
    "are read by workers.",
    TRAINING,
    ge=1,
    le=64,
)
