"""Small grey images whose bright halves are their labels, and CSVs that list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LEFT, TOP = "left", "top"


def picture(path: Path, labels: Iterable[str], *, seed: int = 0, side: int = 8) -> None:
    """An image with a bright left half, a bright upper half, both or none, and noise."""
    pixels = np.random.default_rng(seed).integers(0, 60, (side, side))
    if LEFT in labels:
        pixels[:, : side // 2] += 90
    if TOP in labels:
        pixels[: side // 2] += 90
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def listing(path: Path, lines: Sequence[str]) -> Path:
    """A CSV of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def halves(folder: Path, count: int, *, side: int = 8) -> Path:
    """`count` images in turn of none, the left, the upper and both halves, and their CSV."""
    lines = ["file,labels"]
    for number in range(count):
        labels = [name for bit, name in enumerate((LEFT, TOP)) if number >> bit & 1]
        picture(folder / "images" / f"{number:03}.png", labels, seed=number, side=side)
        lines.append(f"images/{number:03}.png,{';'.join(labels)}")
    return listing(folder / "halves.csv", lines)
