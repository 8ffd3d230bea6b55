"""A dozen small pictures as people have them: of odd sizes and modes, turned, transparent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def noise(height: int, width: int, *channels: int, seed: int = 0, top: int = 256) -> Image.Image:
    """Smooth noise, so that a row more or less shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, top, (5, 4, *channels)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def tagged(orientation: int) -> Image.Exif:
    """The EXIF data that a camera writes which was held in this way."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def half_seen(image: Image.Image) -> Image.Image:
    """The image, transparent at its left."""
    alpha = np.where(np.arange(image.width)[None] < image.width // 3, 0, 255).astype(np.uint8)
    alpha[:, image.width // 2 :] = 120
    image = image.copy()
    image.putalpha(Image.fromarray(np.repeat(alpha, image.height, axis=0)))
    return image


def odd_pictures(folder: Path, top: int = 256) -> list[Path]:
    """Writes them below a folder, darker where their values end at `top`."""
    folder.mkdir(parents=True, exist_ok=True)
    colour, grey = noise(37, 51, 3, top=top), noise(45, 31, seed=1, top=top)
    clear = colour.quantize(16)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    made: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("plain.jpg", colour, {}),
        ("grey.jpg", grey, {}),
        ("wide.png", noise(22, 61, 3, seed=2, top=top), {}),
        ("tall.png", noise(59, 23, 3, seed=3, top=top), {}),
        ("exact.png", noise(20, 20, 3, seed=4, top=top), {}),
        ("turned.jpg", noise(33, 46, 3, seed=5, top=top), {"exif": tagged(6)}),
        ("mirrored.png", noise(41, 28, 3, seed=6, top=top), {"exif": tagged(5)}),
        (
            "upside-down.webp",
            noise(40, 27, 3, seed=7, top=top),
            {"exif": tagged(3), "lossless": True},
        ),
        ("alpha.png", half_seen(colour), {}),
        ("grey-alpha.png", half_seen(grey), {}),
        ("palette.gif", colour.quantize(16), {}),
        ("clear.png", clear, {"transparency": 3}),
        ("cmyk.jpg", colour.convert("CMYK"), {}),
        ("deep.png", deep, {}),
        ("two.png", grey.point(lambda level: 255 * (level > top / 3), "1"), {}),
    ]
    for name, image, options in made:
        image.save(folder / name, **options)
    return [folder / name for name, _, _ in made]


def odd_data(folder: Path) -> Path:
    """Two classes of them, in train and test."""
    for split in ("train", "test"):
        for label, top in (("a", 256), ("b", 120)):
            odd_pictures(folder / split / label, top)
    return folder
