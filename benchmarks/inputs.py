"""Images to train on: a part of the real data where it is at hand, else noise of the same shape."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


def small_images(
    folder: Path, name: str, per_class: int, test_per_class: int = 10, *, noise: float = 0.0
) -> Path:
    """A tar of class folders with so many training images a class.

    Args:
        folder: Folder that it is written to.
        name: mnist or cifar10; read below DISTILL_DATA, or ../shared/data, if it is there.
        per_class: Training images of each class.
        test_per_class: Test images of each class.
        noise: Share of the training images that stand in another class's folder, any of the
            others alike; test stays as it is.
    """
    path = folder / (f"{name}-{per_class}" + (f"-noise-{noise:g}" if noise else "") + ".tar")
    wanted = {"train": per_class, "test": test_per_class}
    roots = (os.environ.get("DISTILL_DATA", "../shared/data"),)
    real = [p for root in roots for p in Path(root).glob(f"{name}.tar*")]
    with tarfile.open(path, "w") as out:
        if real:
            _copy(real[0], out, wanted, noise)
        else:
            _noise(out, wanted, (28, 28) if name == "mnist" else (32, 32, 3))
    return path


def _copy(archive: Path, out: tarfile.TarFile, wanted: dict[str, int], noise: float) -> None:
    taken: Counter[tuple[str, str]] = Counter()
    generator = np.random.default_rng(0)
    with tarfile.open(archive) as source:
        members = [(m, Path(m.name).parts) for m in source if m.isfile()]
        members = [(m, parts) for m, parts in members if len(parts) == 3 and parts[0] in wanted]
        classes = sorted({label for _, (_, label, _) in members})
        for member, (split, label, name) in members:
            if taken[split, label] == wanted[split]:
                continue
            taken[split, label] += 1
            content = source.extractfile(member)
            if split == "train" and generator.random() < noise:
                others = [each for each in classes if each != label]
                # Under a name of its own: the other class may have one of this name.
                member.name = f"train/{generator.choice(others)}/{label}-{name}"
            out.addfile(member, content)


def _noise(out: tarfile.TarFile, wanted: dict[str, int], shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    for split, count in wanted.items():
        for label in range(CLASSES):
            for number in range(count):
                buffer = io.BytesIO()
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG")
                member = tarfile.TarInfo(f"{split}/{label}/{number:05d}.png")
                member.size = buffer.tell()
                buffer.seek(0)
                out.addfile(member, buffer)


def large_images(folder: Path, count: int, side: int = 256) -> Path:
    """A folder of `count` made training JPEGs with smooth content, and a few to test."""
    root = folder / f"jpeg-{count}"
    generator = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 40)):
        for number in range(images):
            coarse = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            path = root / split / str(number % CLASSES) / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(path, quality=90)
    return root


def photographs(folder: Path, count: int, width: int = 500, height: int = 375) -> Path:
    """A folder of `count` made training JPEGs as photographs are: gradients and noise, quality 90."""
    root = folder / f"photographs-{count}-{width}"
    if root.exists():
        return root
    generator = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 2 * CLASSES)):
        for number in range(images):
            coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            grain = generator.normal(0, 20, (height, width, 3))
            pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
            path = root / split / str(number % CLASSES) / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=90)
    return root
