"""A folder as people have it: copies, colour among grey, other suffixes, files of other programs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 8


def pixels(label: int, seed: int, side: int = SIDE) -> np.ndarray:
    """Grey noise, of which the left (0) or the upper (1) half is bright."""
    noise = np.random.default_rng(seed).integers(0, 60, (side, side))
    noise[(slice(None), slice(side // 2)) if label == 0 else (slice(side // 2),)] += 150
    return noise.astype(np.uint8)


def grey(label: int, seed: int, side: int = SIDE) -> Image.Image:
    """The same as an image."""
    return Image.fromarray(pixels(label, seed, side))


def colour(label: int, seed: int, side: int = SIDE) -> Image.Image:
    """The same, bluish."""
    plain = pixels(label, seed, side)
    return Image.fromarray(np.stack([plain // 2, plain // 2, plain], axis=-1))


def save(path: Path, image: Image.Image, kind: str | None = None) -> Path:
    """An image file; its format is that of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind)
    return path


def content(image: Image.Image, kind: str = "PNG") -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def classes(
    root: Path, count: int, *, names: str = "ab", make: Callable[[int, int], Image.Image] = grey
) -> Path:
    """`count` images of each class in a folder of its own, no two equal."""
    for number in range(count):
        for label, name in enumerate(names):
            image = make(label % 2, 1000 * label + number)
            save(root / name / f"{number:02}.png", image)
    return root


def odd(root: Path) -> Path:
    """Class folders alone: 48 grey images, six of them twice, one colour image, and others' files."""
    classes(root, 24, names="79")
    for number in range(6):
        original = root / "79"[number % 2] / f"{number:02}.png"
        copy = original.with_name(f"copy-{number}.png")
        copy.write_bytes(original.read_bytes())
    save(root / "7" / "colour.png", colour(0, 77))
    save(root / "9" / "other.jfif", grey(1, 78), "JPEG")
    save(root / "9" / "more.jp2", grey(1, 79), "JPEG2000")
    (root / "7" / "notes.txt").write_text("none of the images")
    save(root / "loose.png", grey(0, 80))
    return root
