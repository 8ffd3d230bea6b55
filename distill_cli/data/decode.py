"""Decodes image files into one uint8 tensor, in parallel; a bad image is named, never replaced."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill_cli.counters import sample_key
from distill_cli.data.inventory import Left, of_kind
from distill_cli.data.pillow_io import (
    BAD_IMAGE,
    Pixels,
    Size,
    bad_image,
    is_majority,
    reason_of,
    sides,
    to_pixels,
    without_colour,
)
from distill_cli.data.rules import TODAY, DataRules
from distill_cli.data.source import Source, check_label
from distill_cli.data.split_images import ImageTable
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError, InternalError
from distill_cli.types import EARLIER_FRAMING, Count, DataVersion, Framing

# Smaller splits are read before worker processes would have started.
WORTH_WORKERS = 2048
ROWS_A_TASK = 128


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """All splits of a dataset at one size and channel count.

    Attributes:
        tables: Decoded images by split.
        class_names: Names of the classes in label order.
        digests: Content digests of each split's rows.
        left: Files and folders that are not used, images that cannot be read among them.
        grey: How many training images are grey, and of how many.
    """

    tables: Mapping[str, ImageTable]
    class_names: tuple[str, ...]
    digests: Mapping[str, tuple[bytes, ...]]
    left: tuple[Left, ...]
    grey: tuple[int, int]

    @property
    def skipped(self) -> int:
        """Number of images left out because they cannot be read."""
        return len(of_kind(self.left, "unreadable"))


class SizesDifferError(Exception):
    """The images are of several sizes, and none was asked for."""


def decode(
    splits: Mapping[str, Source],
    *,
    size: Size | None,
    skip_bad: bool,
    rules: DataRules = TODAY,
    framing: Framing = EARLIER_FRAMING,
    progress: Count = lambda done, total: None,
) -> Decoded:
    """Decodes every split.

    One channel where more than half of the training images are grey, else three: alpha is dropped
    and palettes are resolved, as torchvision's ImageFolder does; 16-bit grey is scaled to 8 bits.
    EXIF rotation is not applied.

    Args:
        splits: Sources by split.
        size: Shorter side in pixels before a centre crop to a square; None keeps images as they
            are.
        skip_bad: Leave out and note images that cannot be read.
        rules: Rules by which the images have one channel or three.
        progress: Called with (images done, images in all).

    Raises:
        SizesDifferError: The images are of several sizes, and `size` is None.
        ArtifactError: An image cannot be read, or a label is out of range.
        InternalError: The images do not fit into memory.
    """
    total, done = sum(len(source) for source in splits.values()), 0
    filled: dict[str, _Filling] = {}
    left: list[Left] = []
    shape: tuple[int, ...] | None = None
    for split, source in splits.items():
        check_memory(splits, source, size)
        filled[split] = filling = _Filling(source)
        rows = _decoded_rows(source, size, skip_bad, framing, rules.version)
        for row, made in enumerate(rows):
            done += 1
            if isinstance(made, str):
                left.append(Left(source.where(row), "unreadable", made))
                continue
            shape = shape or made[0].shape[:2]
            if made[0].shape[:2] != shape:
                raise SizesDifferError
            filling.add(row, *made)
            progress(done, total)
    grey = filled["train"].grey, len(filled["train"].rows)
    channels = rules.channels or _channels(rules.version, filled, grey)
    return Decoded(
        tables={split: filling.table(split, channels) for split, filling in filled.items()},
        class_names=splits["train"].class_names,
        digests={split: tuple(filling.digests) for split, filling in filled.items()},
        left=tuple(left),
        grey=grey,
    )


def _channels(version: DataVersion, filled: Mapping[str, _Filling], grey: tuple[int, int]) -> int:
    """Channels of the views where nobody says."""
    if version == "0.3.0":
        return max(filling.channels for filling in filled.values())
    return 1 if is_majority(*grey) else 3


class _Filling:
    """A split while it is decoded: one array filled in place, so that memory is used once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.rows: list[int] = []
        self.digests: list[bytes] = []
        self.coloured: list[int] = []
        self.images_NCHW = np.empty((0, 1, 0, 0), dtype=np.uint8)

    @property
    def channels(self) -> int:
        """Channels so far: 1 as long as all images are grey."""
        return int(self.images_NCHW.shape[1])

    @property
    def grey(self) -> int:
        """Number of grey images so far."""
        return len(self.rows) - len(self.coloured)

    def add(self, row: int, pixels: Pixels, content: bytes) -> None:
        """Appends the image of a row."""
        height, width = pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else 3
        if not self.rows:
            self.images_NCHW = np.empty((len(self.source), channels, height, width), np.uint8)
        elif channels > self.channels:
            self.images_NCHW = np.repeat(self.images_NCHW, 3, axis=1)
        if channels == 3:
            self.coloured.append(len(self.rows))
        chw = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self.images_NCHW[len(self.rows)] = chw
        self.rows.append(row)
        self.digests.append(content)

    def _to_grey(self) -> None:
        """Has one channel from now on: Pillow's luminance of the images that have colour."""
        grey_NCHW = self.images_NCHW[:, :1].copy()
        for position in self.coloured:
            picture = Image.fromarray(self.images_NCHW[position].transpose(1, 2, 0))
            grey_NCHW[position, 0] = np.asarray(picture.convert("L"))
        self.images_NCHW = grey_NCHW

    def table(self, split: str, channels: int) -> ImageTable:
        """The images that were added, with this many channels."""
        if not self.rows:
            raise ArtifactError(f"no image of the {split} split can be read")
        if channels < self.channels:
            self._to_grey()
        images_NCHW = self.images_NCHW[: len(self.rows)]
        if channels > self.channels:
            images_NCHW = np.repeat(images_NCHW, channels, axis=1)
        ids = tuple(self.source.sample_id(row) for row in self.rows)
        labels = [self.source.label(row) for row in self.rows]
        return ImageTable(
            images_NCHW=torch.from_numpy(images_NCHW),
            label_N=torch.tensor(labels, dtype=torch.int64),
            key_N=torch.tensor([sample_key(name) for name in ids], dtype=torch.int64),
            sample_ids=ids,
        )


def _decoded_rows(
    source: Source, size: Size | None, skip_bad: bool, framing: Framing, version: DataVersion
) -> Iterator[tuple[Pixels, bytes] | str]:
    """Pixels and content digest of each row in order; where it cannot be read, the reason."""
    count = len(source)
    tasks = [
        range(start, min(start + ROWS_A_TASK, count)) for start in range(0, count, ROWS_A_TASK)
    ]
    options: dict[str, Any] = {"size": size, "skip_bad": skip_bad}
    options |= {"framing": framing, "version": version}
    decode_task = partial(_decode_task, source, **options)
    # Processes, not threads: opening an image holds Python's lock, most of the cost of a small one.
    workers = min(8, processors()) if count >= WORTH_WORKERS else 0
    for made in stream(decode_task, tasks, workers=workers):
        yield from pickle.loads(made)


def _decode_task(source: Source, rows: range, **options: Any) -> bytes:
    """The rows of a task, pickled so that they come back in one piece."""
    return pickle.dumps([_decode_row(source, row, **options) for row in rows])


def processors() -> int:
    """Processors of this process on Linux; elsewhere those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_memory(splits: Mapping[str, Source], source: Source, size: Size | None) -> None:
    """Refuses images that do not fit into memory, by the size of the split's first image."""
    try:
        width, height = source.fetch(0)[0].size
    except BAD_IMAGE:
        return
    side = min(width, height) if size is None else max(sides(size))
    needed = 2 * sum(len(part) for part in splits.values()) * 3 * side * side
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise InternalError(
            f"these images need {needed / 1e9:.0f} GB of memory at {side} pixels, "
            f"{available / 1e9:.0f} GB are there",
            hint="Use a smaller --size",
        )


def _decode_row(
    source: Source,
    row: int,
    *,
    size: Size | None,
    skip_bad: bool,
    framing: Framing,
    version: DataVersion,
) -> tuple[Pixels, bytes] | str:
    """Pixels, grey ones as (H, W), and content digest; the reason where the image cannot be read.

    For versions up to 0.3.0 grey is what is stored as grey.
    """
    check_label(source, row)
    try:
        image, digest = source.fetch(row)
        pixels = to_pixels(image, size, framing)
    except BAD_IMAGE as error:
        if skip_bad:
            return reason_of(error)
        raise bad_image(source, row, error) from None
    return (pixels if version == "0.3.0" else without_colour(pixels)), digest
