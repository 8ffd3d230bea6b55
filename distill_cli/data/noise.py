"""Images of noise in place of a dataset's, for the measurements of a dry run."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from distill_cli.counters import Purpose, permutation
from distill_cli.data.dataset import Dataset
from distill_cli.data.source import digest
from distill_cli.data.split_images import ImageFiles, Images, ImageTable, to_pictures

# Number of pictures whose sizes are taken, and side of the noise that is enlarged to these sizes:
# files of pixel noise would take several times longer to decode than photographs.
PICTURES, GRAIN, QUALITY = 16, 48, 90


@dataclass(frozen=True, kw_only=True)
class NoiseFiles:
    """Files of noise in memory; a `Source` of one class.

    Attributes:
        contents: JPEG files, repeated in turn.
        rows: Number of samples.
    """

    contents: tuple[bytes, ...]
    rows: int
    class_names: tuple[str, ...] = ("noise",)
    multi_label: bool = False

    def __len__(self) -> int:
        """Number of samples."""
        return self.rows

    def sample_id(self, index: int) -> str:
        """noise/N."""
        return f"noise/{index}"

    def where(self, index: int) -> str:
        """The sample id: the image has no place on disk."""
        return self.sample_id(index)

    def label(self, index: int) -> int:
        """The one class."""
        return 0

    def labels(self, index: int) -> tuple[int, ...]:
        """The one class."""
        return (0,)

    def fetch(self, index: int) -> tuple[Image.Image, bytes]:
        """The image, not decoded yet, and a digest of its content."""
        content = self.contents[index % len(self.contents)]
        return Image.open(io.BytesIO(content)), digest(content)

    def image(self, index: int) -> Image.Image:
        """The image, not decoded yet."""
        return Image.open(io.BytesIO(self.contents[index % len(self.contents)]))

    def file(self, index: int) -> Path | None:
        """None: it lies in memory."""
        return None


def drawn_rows(dataset: Dataset, count: int) -> Tensor:
    """int64 training rows of a dataset, drawn from all; at most as many as it has."""
    return dataset.fit_rows[permutation(0, Purpose.PROBE, len(dataset.fit_rows), 0)[:count]]


def noise_like(dataset: Dataset, chosen: Tensor) -> Dataset:
    """A dataset of noise with the labels, sizes and storage of another.

    Args:
        dataset: Dataset whose labels are used, and the headers of a few of its files.
        chosen: int64 rows of it to train on; one may stand several times.
    """
    held_out = _first_rows(dataset.val, len(chosen))
    train, val = _noise(dataset.train, chosen), _noise(dataset.val, held_out)
    if isinstance(train, ImageFiles):
        # The cost of reading files is measured on training images; held-out ones need no files.
        val = _table(val)
    return replace(
        dataset,
        train=train,
        fit_rows=torch.arange(len(chosen)),
        val=val,
        test=val,
        mixed_rows=None,
    )


def noise_beside(images: Images, rows: Tensor) -> Images:
    """Noise of the sizes and storage of some rows of other images."""
    return _noise(images, rows)


def _first_rows(images: Images, rows: int) -> Tensor:
    return torch.arange(min(rows, len(images.sample_ids)))


def _noise(images: Images, rows: Tensor) -> Images:
    if not isinstance(images, ImageFiles):
        return _table(images.take(rows))
    sizes = [images.opened(row).size for row in rows[:PICTURES].tolist()]
    contents = tuple(_jpeg(images.size[0], *size, seed) for seed, size in enumerate(sizes))
    source = NoiseFiles(contents=contents, rows=len(rows))
    return replace(images.take(rows), source=source, row_N=torch.arange(len(rows)))


def _table(images: Images) -> ImageTable:
    """The same labels, with noise of the size of a view."""
    shape = (len(images.sample_ids), *images.size)
    return ImageTable(
        images_NCHW=torch.randint(0, 256, shape, dtype=torch.uint8, generator=_generator(0)),
        label_N=images.label_N,
        key_N=images.key_N,
        sample_ids=images.sample_ids,
        label_NK=images.label_NK,
    )


def _jpeg(channels: int, width: int, height: int, seed: int) -> bytes:
    shape = (1, channels, GRAIN, GRAIN)
    grain = torch.randint(0, 256, shape, dtype=torch.uint8, generator=_generator(seed))
    [picture] = to_pictures(grain)
    content = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _generator(seed: int) -> torch.Generator:
    """A separate generator: the global one belongs to the network's weights."""
    return torch.Generator().manual_seed(seed)
