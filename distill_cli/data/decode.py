"""Decodes image files into one uint8 tensor, in parallel; a bad image is named, never replaced."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from distill_cli.counters import sample_key
from distill_cli.data.pillow_io import BAD_IMAGE, Pixels, Size, bad_image, sides, to_pixels
from distill_cli.data.source import Source, check_label
from distill_cli.data.split_images import ImageTable
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError, InternalError
from distill_cli.types import EARLIER_FRAMING, Count, Framing

# Smaller splits are read before worker processes would have started.
WORTH_WORKERS = 2048
ROWS_A_TASK = 128


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """All splits of a dataset at one size and channel count.

    Attributes:
        tables: Decoded images by split.
        class_names: Names of the classes in label order.
        digests: Content digests of the train split's rows.
        skipped: Number of images left out because they cannot be read.
    """

    tables: Mapping[str, ImageTable]
    class_names: tuple[str, ...]
    digests: tuple[bytes, ...]
    skipped: int


class SizesDifferError(Exception):
    """The images are of several sizes, and none was asked for."""


def decode(
    splits: Mapping[str, Source],
    *,
    size: Size | None,
    skip_bad: bool,
    framing: Framing = EARLIER_FRAMING,
    progress: Count = lambda done, total: None,
) -> Decoded:
    """Decodes every split.

    One channel where all images are grey, else three: alpha is dropped and palettes are
    resolved, as torchvision's ImageFolder does; 16-bit grey is scaled to 8 bits. EXIF rotation
    is not applied.

    Args:
        splits: Sources by split.
        size: Shorter side in pixels before a centre crop to a square; None keeps images as they
            are.
        skip_bad: Leave out and count images that cannot be read.
        progress: Called with (images done, images in all).

    Raises:
        SizesDifferError: The images are of several sizes, and `size` is None.
        ArtifactError: An image cannot be read, or a label is out of range.
        InternalError: The images do not fit into memory.
    """
    total, done, bad = sum(len(source) for source in splits.values()), 0, 0
    filled: dict[str, _Filling] = {}
    shape: tuple[int, ...] | None = None
    for split, source in splits.items():
        check_memory(splits, source, size)
        filled[split] = filling = _Filling(source)
        for row, made in enumerate(_decoded_rows(source, size, skip_bad, framing)):
            done += 1
            if made is None:
                bad += 1
                continue
            shape = shape or made[0].shape[:2]
            if made[0].shape[:2] != shape:
                raise SizesDifferError
            filling.add(row, *made)
            progress(done, total)
    channels = max(filling.channels for filling in filled.values())
    return Decoded(
        tables={split: filling.table(split, channels) for split, filling in filled.items()},
        class_names=splits["train"].class_names,
        digests=tuple(filled["train"].digests),
        skipped=bad,
    )


class _Filling:
    """A split while it is decoded: one array filled in place, so that memory is used once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.rows: list[int] = []
        self.digests: list[bytes] = []
        self.images_NCHW = np.empty((0, 1, 0, 0), dtype=np.uint8)

    @property
    def channels(self) -> int:
        """Channels so far: 1 as long as all images are grey."""
        return int(self.images_NCHW.shape[1])

    def add(self, row: int, pixels: Pixels, content: bytes) -> None:
        """Appends the image of a row."""
        height, width = pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else 3
        if not self.rows:
            self.images_NCHW = np.empty((len(self.source), channels, height, width), np.uint8)
        elif channels > self.channels:
            self.images_NCHW = np.repeat(self.images_NCHW, 3, axis=1)
        chw = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self.images_NCHW[len(self.rows)] = chw
        self.rows.append(row)
        self.digests.append(content)

    def table(self, split: str, channels: int) -> ImageTable:
        """The images that were added, with this many channels."""
        if not self.rows:
            raise ArtifactError(f"no image of the {split} split can be read")
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
    source: Source, size: Size | None, skip_bad: bool, framing: Framing
) -> Iterator[tuple[Pixels, bytes] | None]:
    """Pixels and content digest of each row in order; None where it cannot be read."""
    count = len(source)
    tasks = [
        range(start, min(start + ROWS_A_TASK, count)) for start in range(0, count, ROWS_A_TASK)
    ]
    decode_task = partial(_decode_task, source, size=size, skip_bad=skip_bad, framing=framing)
    # Processes, not threads: opening an image holds Python's lock, most of the cost of a small one.
    workers = min(8, processors()) if count >= WORTH_WORKERS else 0
    for made in stream(decode_task, tasks, workers=workers):
        yield from pickle.loads(made)


def _decode_task(
    source: Source, rows: range, *, size: Size | None, skip_bad: bool, framing: Framing
) -> bytes:
    """The rows of a task, pickled so that they come back in one piece."""
    return pickle.dumps([_decode_row(source, row, size, skip_bad, framing) for row in rows])


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
    source: Source, row: int, size: Size | None, skip_bad: bool, framing: Framing
) -> tuple[Pixels, bytes] | None:
    check_label(source, row)
    try:
        image, digest = source.fetch(row)
        return to_pixels(image, size, framing), digest
    except BAD_IMAGE as error:
        if skip_bad:
            return None
        raise bad_image(source, row, error) from None
