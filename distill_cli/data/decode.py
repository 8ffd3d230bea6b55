"""From image files to one uint8 tensor, in parallel; a bad image is named, never replaced."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill_cli.counters import sample_key
from distill_cli.data.archives import open_files
from distill_cli.data.sources import Source
from distill_cli.errors import ArtifactError, InternalError, UsageError

# Side of a view where images differ in size and none was asked for: ImageNet's.
DEFAULT_SIZE = 224
# What Pillow is seen to raise for damaged files; TypeError by its TIFF reader.
BAD_IMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error),
    Image.DecompressionBombError,
)
# Up to this side, opening an image costs more than decoding it, and opening holds Python's lock:
# threads then take longer than none.
SMALL_SIDE = 64
ROWS_A_TASK = 32
# PIL's modes of one channel; 16-bit ones are scaled to 8 bits.
GREY_MODES, DEEP_MODES = ("1", "L", "LA"), ("I;16", "I;16B", "I;16L", "I")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """A decoded split.

    Attributes:
        images_NCHW: uint8.
        label_N: int64, −1 where unlabelled.
        key_N: int64, `counters.sample_key` of each sample id.
        sample_ids: Sorted by their bytes.
    """

    images_NCHW: Tensor
    label_N: Tensor
    key_N: Tensor
    sample_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """All splits of a dataset at one size and channel count.

    Attributes:
        tables: By split.
        digests: Content digests of the train split's rows.
        skipped: Images left out because they cannot be read.
    """

    tables: Mapping[str, ImageTable]
    digests: tuple[bytes, ...]
    skipped: int


class _SizesDifferError(Exception):
    pass


def decode(splits: Mapping[str, Source], *, size: int | None, skip_bad: bool) -> Decoded:
    """Decodes every split.

    One channel where all images are grey, else three: alpha is dropped and palettes are
    resolved, as torchvision's ImageFolder does; 16-bit grey is scaled to 8 bits. EXIF rotation
    is not applied.

    Args:
        splits: What to decode.
        size: Shorter side in pixels, then a centre crop to a square; None keeps images as they
            are if all agree, and means 224 if not.
        skip_bad: Leave out what cannot be read, and count it.

    Raises:
        ArtifactError: An image cannot be read, or a label is out of range.
        InternalError: The images do not fit into memory.
    """
    try:
        return _decode(splits, size, skip_bad)
    except _SizesDifferError:
        return _decode(splits, DEFAULT_SIZE, skip_bad)


def _decode(splits: Mapping[str, Source], size: int | None, skip_bad: bool) -> Decoded:
    kept: dict[str, list[tuple[int, Pixels, bytes]]] = {}
    bad = 0
    first: list[tuple[int, ...]] = []
    for split, source in splits.items():
        _check_memory(splits, source, size)
        kept[split] = []
        for row, made in enumerate(_each(source, size, skip_bad)):
            if made is None:
                bad += 1
                continue
            first = first or [made[0].shape[:2]]
            if made[0].shape[:2] != first[0]:
                raise _SizesDifferError
            kept[split].append((row, *made))
    grey = all(pixels.ndim == 2 for rows in kept.values() for _, pixels, _ in rows)
    tables = {split: _table(split, splits[split], rows, grey) for split, rows in kept.items()}
    return Decoded(
        tables=tables, digests=tuple(digest for _, _, digest in kept["train"]), skipped=bad
    )


def _each(
    source: Source, size: int | None, skip_bad: bool
) -> Iterator[tuple[Pixels, bytes] | None]:
    """Pixels and content digest of each row in order; None where it cannot be read."""

    def some(rows: range) -> list[tuple[Pixels, bytes] | None]:
        return [_one(source, row, size, skip_bad) for row in rows]

    count = len(source)
    tasks = [
        range(start, min(start + ROWS_A_TASK, count)) for start in range(0, count, ROWS_A_TASK)
    ]
    if _is_small(source):
        for task in tasks:
            yield from some(task)
        return
    pool = ThreadPoolExecutor(min(8, _processors()))
    try:
        for made in pool.map(some, tasks):
            yield from made
    finally:
        # An error or Ctrl-C does not wait for the images that nobody will look at.
        pool.shutdown(wait=False, cancel_futures=True)


def _processors() -> int:
    # Only Linux tells which processors are ours.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_small(source: Source) -> bool:
    try:
        return max(source.fetch(0)[0].size) <= SMALL_SIDE
    except BAD_IMAGE:
        return False


def _check_memory(splits: Mapping[str, Source], source: Source, size: int | None) -> None:
    """Refuses what cannot be held, by the size of the split's first image."""
    try:
        width, height = source.fetch(0)[0].size
    except BAD_IMAGE:
        return
    side = min(width, height) if size is None else size
    needed = 2 * sum(len(part) for part in splits.values()) * 3 * side * side
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise InternalError(
            f"these images need {needed / 1e9:.0f} GB of memory at {side} pixels, "
            f"{available / 1e9:.0f} GB are there",
            hint="Use a smaller --size",
        )


def _one(source: Source, row: int, size: int | None, skip_bad: bool) -> tuple[Pixels, bytes] | None:
    label = source.label(row)
    if not -1 <= label < len(source.class_names):
        raise ArtifactError(
            f"sample {source.sample_id(row)} has label {label}; there are "
            f"{len(source.class_names)} classes"
        )
    try:
        image, digest = source.fetch(row)
        return to_pixels(image, size), digest
    except BAD_IMAGE as error:
        if skip_bad:
            return None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"cannot read image {source.where(row)}: {reason}",
            hint="Replace it, or leave such images out with --skip-bad",
        ) from None


def to_pixels(image: Image.Image, size: int | None) -> Pixels:
    """An image as uint8 (H, W) where grey, else (H, W, 3); resized and centre-cropped to `size`."""
    image.load()
    if image.mode in DEEP_MODES:
        deep = np.asarray(image, dtype=np.float64) / 257
        image = Image.fromarray(np.clip(np.rint(deep), 0, 255).astype(np.uint8))
    elif image.mode in GREY_MODES:
        image = image if image.mode == "L" else image.convert("L")
    elif image.mode != "RGB":
        if image.mode == "P":
            # Alpha is dropped anyhow; Pillow would warn about it.
            image.info.pop("transparency", None)
        image = image.convert("RGB")
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


def _stack(pixels: Sequence[Pixels], grey: bool) -> Tensor:
    if grey:
        return torch.from_numpy(np.stack(pixels))[:, None]
    colour = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pixels]
    return torch.from_numpy(np.stack(colour)).permute(0, 3, 1, 2).contiguous()


def _table(
    split: str, source: Source, rows: Sequence[tuple[int, Pixels, bytes]], grey: bool
) -> ImageTable:
    if not rows:
        raise ArtifactError(f"no image of the {split} split can be read")
    ids = tuple(source.sample_id(row) for row, _, _ in rows)
    return ImageTable(
        images_NCHW=_stack([pixels for _, pixels, _ in rows], grey),
        label_N=torch.tensor([source.label(row) for row, _, _ in rows], dtype=torch.int64),
        key_N=torch.tensor([sample_key(name) for name in ids], dtype=torch.int64),
        sample_ids=ids,
    )


def images_from_paths(
    paths: Sequence[Path], *, channels: int, height: int, width: int
) -> tuple[Tensor, list[str]]:
    """Image files, and those below folders, as uint8 (N, C, H, W) and their names.

    Raises:
        UsageError: None is given, or a folder holds none.
        ArtifactError: An image cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            inside = open_files(path)
            found = [path.joinpath(*parts) for parts in inside.paths]
            if not found:
                raise UsageError(f"{path} holds no images")
        files += found
    if not files:
        raise UsageError("which images? None is given")
    arrays = []
    for path in files:
        try:
            with Image.open(path) as image:
                pixels = Image.fromarray(to_pixels(image, None))
        except BAD_IMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArtifactError(f"cannot read image {path}: {reason}") from None
        mode = pixels.convert("L" if channels == 1 else "RGB")
        arrays.append(np.asarray(centre_crop(mode, height, width)))
    return _stack(arrays, channels == 1), [str(path) for path in files]
