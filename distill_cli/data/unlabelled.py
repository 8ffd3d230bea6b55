"""Images without labels from a source of their own: rows behind those of a train split.

The rows of train keep their numbers and the split its identity. A source that has labels has none here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from distill_cli.counters import sample_key
from distill_cli.data.any_images import images_below
from distill_cli.data.archives import open_files
from distill_cli.data.csv_files import listed_images
from distill_cli.data.csv_source import is_listing
from distill_cli.data.decode import Decoded
from distill_cli.data.file_index import Listed
from distill_cli.data.fingerprint import fingerprint_of
from distill_cli.data.inventory import Left
from distill_cli.data.listing import is_archive
from distill_cli.data.open_splits import ALIASES, open_splits
from distill_cli.data.rules import DataRules
from distill_cli.data.source import UNLABELLED_PREFIX, FileSource, ItemSource, Source, Splits
from distill_cli.data.split_images import ImageFiles, Images
from distill_cli.errors import ArtifactError, UsageError, counted, nearest
from distill_cli.types import UNLABELLED, UNREAD_IMAGES, DatasetIdentity

# Sample ids that a message names at most.
NAMED = 3


def open_unlabelled(spec: str, *, glance: bool = False) -> Splits:
    """The images of train, or all where there are no splits, without labels, as one split `train`.

    Args:
        spec: The value of `--unlabelled`.
        glance: Write nothing, for a dry run.

    Raises:
        UsageError: The spec names nothing.
        ArtifactError: It holds no images, or those of val and test alone.
    """
    path = Path(spec)
    if spec == "digits" or ALIASES.get(spec, spec).startswith("torch/"):
        source = open_splits(spec, glance=glance)["train"]
    elif path.is_dir() or (path.is_file() and is_archive(path)):
        source = images_below(open_files(path))
    elif path.is_file() and is_listing(path):
        source = listed_images(path)["train"]
    elif path.is_file():
        raise UsageError(f"--unlabelled {spec} is neither a folder nor an archive nor a .csv")
    else:
        known = nearest(spec, ["digits", *ALIASES])
        raise UsageError(f"--unlabelled {spec} does not exist. {known}")
    assert isinstance(source, FileSource | ItemSource)
    return {"train": source.unlabelled()}


@dataclass(frozen=True)
class Joined:
    """The images of a source, and behind them those of another, which have no labels; a `Source`."""

    first: Source
    second: Source

    @property
    def class_names(self) -> tuple[str, ...]:
        """The first one's."""
        return self.first.class_names

    @property
    def multi_label(self) -> bool:
        """Whether several labels may apply to an image of the first."""
        return self.first.multi_label

    def __len__(self) -> int:
        """Number of samples of both."""
        return len(self.first) + len(self.second)

    def _at(self, index: int) -> tuple[Source, int]:
        """The source of a row, and the row in it."""
        beyond = index - len(self.first)
        return (self.first, index) if beyond < 0 else (self.second, beyond)

    def sample_id(self, index: int) -> str:
        """The source's."""
        source, row = self._at(index)
        return source.sample_id(row)

    def where(self, index: int) -> str:
        """The source's."""
        source, row = self._at(index)
        return source.where(row)

    def label(self, index: int) -> int:
        """The source's; −1 of the second."""
        source, row = self._at(index)
        return source.label(row)

    def labels(self, index: int) -> tuple[int, ...]:
        """The source's; none of the second."""
        source, row = self._at(index)
        return source.labels(row)

    def fetch(self, index: int) -> tuple[Image.Image, bytes]:
        """The image and a digest of its content."""
        source, row = self._at(index)
        return source.fetch(row)

    def image(self, index: int) -> Image.Image:
        """The image, perhaps not decoded yet."""
        source, row = self._at(index)
        return source.image(row)

    def file(self, index: int) -> Path | None:
        """The file that holds the image; None where there is none."""
        source, row = self._at(index)
        return source.file(row)


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Images that follow the rows of a train split.

    Attributes:
        images: In the size and channels of the train split, decoded where it is.
        digests: Their contents; None in a dry run that did not read them all.
        left: What of their source is left out, each by its path below it behind `unlabelled/`.
        skipped: Number of images that cannot be read and were left out.
    """

    images: Images
    digests: tuple[bytes, ...] | None
    left: tuple[Left, ...]
    skipped: int

    def beside(self, identity: DatasetIdentity) -> DatasetIdentity:
        """The identity of data with these images beside them."""
        return replace(
            identity,
            unlabelled=fingerprint_of(self.images, self.digests) or UNREAD_IMAGES,
            unlabelled_samples=len(self.images.sample_ids),
        )

    def behind(self, train: Images) -> Images:
        """The train split with these rows behind its own."""
        beside = self.images
        label_NK = train.label_NK
        if label_NK is not None:
            unknown_UK = label_NK.new_full((len(beside.label_N), label_NK.shape[1]), UNLABELLED)
            label_NK = torch.cat([label_NK, unknown_UK])
        both: dict[str, Any] = {
            "label_N": torch.cat([train.label_N, beside.label_N]),
            "key_N": torch.cat([train.key_N, beside.key_N]),
            "sample_ids": (*train.sample_ids, *beside.sample_ids),
            "label_NK": label_NK,
        }
        if isinstance(train, ImageFiles):
            assert isinstance(beside, ImageFiles), "read as the train split is"
            row_N = torch.cat([train.row_N, beside.row_N + len(train.source)])
            return replace(train, source=Joined(train.source, beside.source), row_N=row_N, **both)
        assert not isinstance(beside, ImageFiles), "read as the train split is"
        return replace(
            train, images_NCHW=torch.cat([train.images_NCHW, beside.images_NCHW]), **both
        )

    def rows_behind(self, train: Images) -> Tensor:
        """int64 numbers of these rows, once they are behind those of the train split."""
        first = len(train.sample_ids)
        return torch.arange(first, first + len(self.images.sample_ids))


def beside(
    spec: str,
    read: Decoded | Listed,
    train: Images,
    digests: Mapping[str, Sequence[bytes]],
    rules: DataRules,
) -> Unlabelled:
    """Images that were read from a source of their own, to follow the rows of a train split.

    Args:
        spec: The value of `--unlabelled`.
        read: They, as the split `train`.
        train: The train split.
        digests: The contents of all splits of the data; empty in a dry run that did not read them.
        rules: Whether copies of images of any split, and of each other, are left out.

    Raises:
        ArtifactError: An id is one of the train split too, or nothing remains.
    """
    images: Images = (read.tables if isinstance(read, Decoded) else read.files)["train"]
    known = set(train.sample_ids).intersection(images.sample_ids)
    if known:
        named = ", ".join(sorted(known)[:NAMED])
        raise ArtifactError(
            f"{counted(len(known), 'sample id')} of --unlabelled {spec} "
            f"{'is one' if len(known) == 1 else 'are ids'} of --data too: {named}",
            hint=f"Give the folder {UNLABELLED_PREFIX} of --data another name",
        )
    contents = tuple(read.digests["train"]) if read.digests else None
    left = [replace(one, where=_below(one.where, spec)) for one in read.left]
    if rules.dedupe and contents is not None and digests:
        seen = {content for split in digests.values() for content in split}
        kept: list[int] = []
        for row, content in enumerate(contents):
            if content in seen:
                left.append(Left(images.sample_ids[row], "copy", "a copy of another image"))
            else:
                kept.append(row)
                seen.add(content)
        if not kept:
            raise ArtifactError(
                f"every image of --unlabelled {spec} is a copy, and --dedupe leaves none"
            )
        images = images.take(torch.tensor(kept, dtype=torch.int64))
        contents = tuple(contents[row] for row in kept)
    return Unlabelled(images=images, digests=contents, left=tuple(left), skipped=read.skipped)


def of_test(test: Images, digests: Sequence[bytes] | None) -> Unlabelled:
    """The images of test without their labels, each `unlabelled/` and its id.

    Args:
        test: The test split.
        digests: Their contents; None in a dry run that did not read them all.
    """
    ids = tuple(f"{UNLABELLED_PREFIX}{name}" for name in test.sample_ids)
    unknown: dict[str, Any] = {
        "label_N": torch.full_like(test.label_N, UNLABELLED),
        "key_N": torch.tensor([sample_key(name) for name in ids], dtype=torch.int64),
        "sample_ids": ids,
        "label_NK": None,
    }
    return Unlabelled(
        images=replace(test, **unknown),
        digests=None if digests is None else tuple(digests),
        left=(),
        skipped=0,
    )


def _below(where: str, spec: str) -> str:
    """A path below a source, as lists of what is left out have it."""
    root = str(Path(spec).parent) if is_listing(Path(spec)) else spec
    return UNLABELLED_PREFIX + where.removeprefix(root).lstrip("/!")
