"""Sources of images: files of a split, or items of a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from PIL import Image

from distill_cli.data.archives import Files
from distill_cli.data.formats import MEGAPIXELS, open_image
from distill_cli.errors import ArtifactError, counted
from distill_cli.types import UNLABELLED

# What the ids of the images of --unlabelled begin with.
UNLABELLED_PREFIX = "unlabelled/"
# The classes of images whose labels are not looked at, by which what is remembered of them says that they
# have no splits; where they have some, there is no class.
WHOLE = ("all",)


class Source(Protocol):
    """Labelled images, sorted by the bytes of their sample ids."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order."""

    def __len__(self) -> int:
        """Number of samples."""

    def sample_id(self, index: int) -> str:
        """The sample's identity in caches: class/file, or index:N."""

    def where(self, index: int) -> str:
        """The sample's location, for messages."""

    @property
    def multi_label(self) -> bool:
        """Whether several labels may apply to an image, or none."""

    def label(self, index: int) -> int:
        """Class index; −1 where unlabelled, and where several may apply."""

    def labels(self, index: int) -> tuple[int, ...]:
        """Every class that applies, in order."""

    def fetch(self, index: int) -> tuple[Image.Image, bytes]:
        """The image, perhaps not decoded yet, and a digest of its content."""

    def image(self, index: int) -> Image.Image:
        """The image, perhaps not decoded yet."""

    def file(self, index: int) -> Path | None:
        """The file that holds the image, itself or an archive; None where there is none."""


Splits = Mapping[str, Source]


def digest(content: bytes) -> bytes:
    """16 bytes that represent a sample's content in fingerprints."""
    return blake2b(content, digest_size=16).digest()


@dataclass(frozen=True)
class FileSource:
    """Files of one split.

    Attributes:
        files: Files of all splits.
        rows: Number in files, sample id and label of each row, sorted by id.
        class_names: Names of the classes in label order.
        label_sets: Labels of each row, where several may apply to an image; else None.
        listing: Digest of the CSV that lists the files; empty without one.
        megapixels: Pictures of more are refused.
    """

    files: Files
    rows: tuple[tuple[int, str, int], ...]
    class_names: tuple[str, ...]
    label_sets: tuple[tuple[int, ...], ...] | None = None
    listing: str = ""
    megapixels: int = MEGAPIXELS

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def sample_id(self, index: int) -> str:
        """class/file, or the path in the CSV."""
        return self.rows[index][1]

    def where(self, index: int) -> str:
        """folder/split/class/file, or archive!split/class/file."""
        return self.files.path(self.files.paths[self.rows[index][0]])

    def label(self, index: int) -> int:
        """Class index by class folder, or by the CSV."""
        return self.rows[index][2]

    @property
    def multi_label(self) -> bool:
        """Whether the CSV gives several labels to an image, or none."""
        return self.label_sets is not None

    def labels(self, index: int) -> tuple[int, ...]:
        """Its label, or its set of labels."""
        return _label_set(self.label(index)) if self.label_sets is None else self.label_sets[index]

    def unlabelled(self) -> FileSource:
        """The same images without their labels, each `unlabelled/` and its id."""
        rows = tuple(
            (number, f"{UNLABELLED_PREFIX}{name}", UNLABELLED) for number, name, _ in self.rows
        )
        return replace(self, rows=rows, class_names=(), label_sets=None)

    def fetch(self, index: int) -> tuple[Image.Image, bytes]:
        """Opens the image; its pixels are decoded when asked for."""
        content = self.files.read(self.rows[index][0])
        return open_image(content, self.megapixels), digest(content)

    def image(self, index: int) -> Image.Image:
        """Opens the image; its pixels are decoded when asked for."""
        return open_image(self.files.read(self.rows[index][0]), self.megapixels)

    def file(self, index: int) -> Path:
        """The image's own file, or the archive."""
        where = Path(self.files.where)
        return where.joinpath(*self.files.paths[self.rows[index][0]]) if where.is_dir() else where


@dataclass(frozen=True)
class ItemSource:
    """Items of any (image, label) sequence, as index:N.

    Attributes:
        name: Name of the dataset and split.
        items: Images and labels.
        order: Indices of the items, sorted by id.
        class_names: Names of the classes in label order.
        content: Digest of the items, where it is quick to make; else None.
        prefix: What each id begins with; of unlabelled images, whose labels are not looked at.
    """

    name: str
    items: Sequence[tuple[Image.Image, int]]
    order: tuple[int, ...]
    class_names: tuple[str, ...]
    content: str | None = None
    prefix: str = ""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.order)

    def sample_id(self, index: int) -> str:
        """index:N, N as the dataset counts."""
        return f"{self.prefix}index:{self.order[index]}"

    def where(self, index: int) -> str:
        """dataset, sample N."""
        return f"{self.name}, sample {self.order[index]}"

    def label(self, index: int) -> int:
        """Class index in the dataset."""
        if self.prefix:
            return UNLABELLED
        return int(self.items[self.order[index]][1])

    @property
    def multi_label(self) -> bool:
        """False: each image has one class."""
        return False

    def labels(self, index: int) -> tuple[int, ...]:
        """The one label, if any."""
        return _label_set(self.label(index))

    def unlabelled(self) -> ItemSource:
        """The same images without their labels, each `unlabelled/` and its id."""
        return replace(self, class_names=(), prefix=UNLABELLED_PREFIX)

    def fetch(self, index: int) -> tuple[Image.Image, bytes]:
        """The image and a digest of its raw pixels."""
        image = self.items[self.order[index]][0]
        return image, digest(image.mode.encode() + image.tobytes())

    def image(self, index: int) -> Image.Image:
        """The image."""
        return self.items[self.order[index]][0]

    def file(self, index: int) -> None:
        """None: the dataset's files are unknown."""


def _label_set(label: int) -> tuple[int, ...]:
    return () if label == UNLABELLED else (label,)


def check_label(source: Source, row: int) -> None:
    """Refuses a label that is no class.

    Raises:
        ArtifactError: The label is out of range; the message names the sample.
    """
    label, classes = source.label(row), len(source.class_names)
    if not -1 <= label < classes:
        raise ArtifactError(
            f"sample {source.sample_id(row)} has label {label}; "
            f"{'there is' if classes == 1 else 'there are'} {counted(classes, 'class', 'classes')}"
        )
