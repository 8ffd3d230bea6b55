"""The images of a split: decoded in memory, or files that are read on demand.

Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill_cli.data.pillow_io import (
    BAD_IMAGE,
    UprightImage,
    bad_image,
    decoded,
    framed,
    in_channels,
    scale_for,
)
from distill_cli.data.source import Source
from distill_cli.data.workers import stream
from distill_cli.types import EARLIER_FRAMING, UNLABELLED, Framing

# The number of images from which it is worth starting workers.
WORTH_WORKERS = 64
# Images and values of a batch that is evaluated. Large images make 40 MB as fp32: the C library
# returns blocks above 32 MB to the system at once, while slightly smaller ones were seen to pile up.
PLAIN_IMAGES, PLAIN_VALUES = 512, 10_000_000


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """A decoded split.

    Attributes:
        images_NCHW: uint8 images; on torch's meta device, without values, where they were not read.
        label_N: int64 class, −1 where unlabelled, and where several labels may apply.
        key_N: int64, `counters.sample_key` of each sample id.
        sample_ids: Ids of the samples, sorted by their bytes.
        label_NK: int8, 1 for each label that applies; None where one class applies.
    """

    images_NCHW: Tensor
    label_N: Tensor
    key_N: Tensor
    sample_ids: tuple[str, ...]
    label_NK: Tensor | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width of a view."""
        channels, height, width = self.images_NCHW.shape[1:]
        return channels, height, width

    def take(self, index_N: Tensor) -> ImageTable:
        """The split restricted to some rows, in this order."""
        return ImageTable(
            images_NCHW=self.images_NCHW[index_N],
            label_N=self.label_N[index_N],
            key_N=self.key_N[index_N],
            sample_ids=tuple(self.sample_ids[row] for row in index_N.tolist()),
            label_NK=None if self.label_NK is None else self.label_NK[index_N],
        )

    def iter_plain(self, *, first: int = 0, every: int = 1) -> Iterator[Tensor]:
        """The images as they are, uint8 (B, C, H, W), in order, in batches of bounded memory.

        Args:
            first: Number of the first batch.
            every: Batches from one to the next: where several processes take turns.
        """
        return iter(self.images_NCHW.split(_batch_size(self.size))[first::every])


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """A split that is never held in memory.

    Attributes:
        source: Source of the images.
        row_N: int64 row of each sample in the source.
        size: Channels, height and width of a view.
        workers: Processes that read and decode.
        label_N: int64 class, −1 where unlabelled, and where several labels may apply.
        key_N: int64, `counters.sample_key` of each sample id.
        sample_ids: Ids of the samples, sorted by their bytes.
        label_NK: int8, 1 for each label that applies; None where one class applies.
        framing: How a whole image becomes one of this size.
    """

    source: Source
    row_N: Tensor
    size: tuple[int, int, int]
    workers: int
    label_N: Tensor
    key_N: Tensor
    sample_ids: tuple[str, ...]
    label_NK: Tensor | None = None
    framing: Framing = EARLIER_FRAMING

    def take(self, index_N: Tensor) -> ImageFiles:
        """The split restricted to some rows, in this order."""
        return replace(
            self,
            row_N=self.row_N[index_N],
            label_N=self.label_N[index_N],
            key_N=self.key_N[index_N],
            sample_ids=tuple(self.sample_ids[row] for row in index_N.tolist()),
            label_NK=None if self.label_NK is None else self.label_NK[index_N],
        )

    def opened(self, index: int) -> Image.Image:
        """A whole image, of which most formats have only the header read so far.

        Raises:
            ArtifactError: The image cannot be read.
        """
        with self._named(index):
            return self.source.image(int(self.row_N[index]))

    def plain(self, index: int, image: Image.Image) -> Image.Image:
        """The centre crop of an opened image, in the channels and size of a view.

        Args:
            index: Row of the image, for messages.
            image: The opened image.

        Raises:
            ArtifactError: The image cannot be read.
        """
        channels, height, width = self.size
        with self._named(index):
            return framed(image, (height, width), self.framing, channels)

    def cut(
        self, index: int, image: Image.Image, boxes: Sequence[Sequence[int]]
    ) -> list[Image.Image]:
        """Parts of an opened image, each in the channels and size of a view.

        It is decoded once for all of them. Under `decoding: scaled` it is decoded once for each of
        the scales that they allow: no view may depend on what else is made of a read.

        Args:
            index: Row of the image, for messages, and to open it at another scale.
            image: The opened image.
            boxes: Left, top, width and height of each part, in pixels of the upright image.

        Raises:
            ArtifactError: The image cannot be read.
        """
        channels, height, width = self.size
        scales = [self._scale(image, box) for box in boxes]
        wholes: dict[int, UprightImage] = {}
        with self._named(index):
            for scale in dict.fromkeys(scales):
                source = self.opened(index) if wholes else image
                whole = decoded(source, self.framing, scale)
                wholes[scale] = replace(whole, image=in_channels(whole.image, channels))
            return [
                wholes[scale].image.resize(
                    (width, height), Image.Resampling.BILINEAR, wholes[scale].box(box)
                )
                for scale, box in zip(scales, boxes, strict=True)
            ]

    def _scale(self, image: Image.Image, box: Sequence[int]) -> int:
        """By how much an image is divided as it is decoded, so that a part of it is large enough."""
        if self.framing.decoding == "full":
            return 1
        _, height, width = self.size
        return scale_for(image, (box[2], box[3]), (width, height))

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Names the image of a row where it cannot be read."""
        try:
            yield
        except BAD_IMAGE as error:
            raise bad_image(self.source, int(self.row_N[index]), error) from None

    def iter_plain(self, *, first: int = 0, every: int = 1) -> Iterator[Tensor]:
        """Centre crops, uint8 (B, C, H, W), in order, in batches of bounded memory.

        Args:
            first: Number of the first batch.
            every: Batches from one to the next: where several processes take turns.
        """
        parts = torch.arange(len(self.row_N)).split(_batch_size(self.size))[first::every]
        workers = self.workers if len(self.row_N) >= WORTH_WORKERS else 0
        return stream(partial(_plain_batch, self), parts, workers=workers)


Images = ImageTable | ImageFiles


def labelled(images: Images) -> Tensor:
    """bool (N,): the images that have a label, or of which it is known which labels apply."""
    if images.label_NK is None:
        return images.label_N != UNLABELLED
    return (images.label_NK != UNLABELLED).any(dim=1)


def plain_batches(images: Images) -> int:
    """The number of batches of `iter_plain`."""
    return -(-len(images.label_N) // _batch_size(images.size))


def _batch_size(size: tuple[int, int, int]) -> int:
    """Images of a batch of bounded memory: many small ones, few large ones."""
    return max(1, min(PLAIN_IMAGES, PLAIN_VALUES // math.prod(size)))


def _plain_batch(files: ImageFiles, index_B: Tensor) -> Tensor:
    return to_batch([files.plain(i, files.opened(i)) for i in index_B.tolist()])


def to_batch(pictures: list[Image.Image]) -> Tensor:
    """Images of one size and mode as uint8 (B, C, H, W)."""
    arrays: list[NDArray[np.uint8]] = [np.asarray(picture) for picture in pictures]
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)


def to_pictures(images_BCHW: Tensor) -> list[Image.Image]:
    """The inverse of `to_batch`."""
    if images_BCHW.shape[1] == 1:
        return [Image.fromarray(array) for array in images_BCHW[:, 0].numpy()]
    return [Image.fromarray(a) for a in images_BCHW.permute(0, 2, 3, 1).contiguous().numpy()]
