"""A parallel data set: other images of the same samples, matched by their ids.

It holds what another sensor saw, or a better resolution. Its labels are not looked at, and its own order
and split do not count: both are the data's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from distill_cli.data.any_images import splits_below
from distill_cli.data.archives import open_files
from distill_cli.data.csv_files import listed_images
from distill_cli.data.csv_source import is_listing
from distill_cli.data.listing import is_archive
from distill_cli.data.open_splits import ALIASES, open_splits
from distill_cli.data.source import Splits
from distill_cli.data.split_images import Images
from distill_cli.errors import ArtifactError, UsageError, counted, nearest
from distill_cli.types import UNREAD

# Sample ids that a message names at most.
NAMED = 3


def open_parallel(spec: str, *, glance: bool = False) -> Splits:
    """The images by split; as one split, `train`, where there are no splits.

    Args:
        spec: The value of `--teacher-data`.
        glance: Write nothing, for a dry run.

    Raises:
        UsageError: The spec names nothing.
        ArtifactError: It holds no images of train.
    """
    path = Path(spec)
    if spec == "digits" or ALIASES.get(spec, spec).startswith("torch/"):
        return open_splits(spec, glance=glance)
    if path.is_dir() or (path.is_file() and is_archive(path)):
        return splits_below(open_files(path))
    if path.is_file() and is_listing(path):
        return listed_images(path)
    if path.is_file():
        raise UsageError(f"--teacher-data {spec} is neither a folder nor an archive nor a .csv")
    known = nearest(spec, ["digits", *ALIASES])
    raise UsageError(f"--teacher-data {spec} does not exist. {known}")


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """The images of a parallel data set, read.

    Attributes:
        spec: The value of `--teacher-data`.
        splits: By split; `train` alone where it has no splits.
        whole: Whether it has none.
        digests: Their contents; empty in a dry run that did not read them all.
    """

    spec: str
    splits: Mapping[str, Images]
    whole: bool
    digests: Mapping[str, Sequence[bytes]]

    def matched(self, split: str, images: Images) -> Matched:
        """The counterparts of a split's images, row by row."""
        name = "train" if self.whole else split
        pool = self.splits.get(name)
        number = {} if pool is None else {one: row for row, one in enumerate(pool.sample_ids)}
        index = [number.get(one, -1) for one in images.sample_ids]
        index_N = torch.tensor(index, dtype=torch.int64)
        digest = blake2b(digest_size=16)
        for one, row in zip(images.sample_ids, index, strict=True):
            if row >= 0 and self.digests:
                digest.update(one.encode() + b"\0" + self.digests[name][row])
        return Matched(
            images=None if pool is None else _aligned(pool, index_N, images),
            missing=index_N < 0,
            fingerprint=digest.hexdigest() if self.digests else UNREAD,
        )

    def check_splits(self, train: Sequence[str], others: Sequence[str]) -> None:
        """Refuses ids that mean several samples, where this data set has no splits to tell them apart.

        Args:
            train: The sample ids of the data's train split.
            others: Those of its test split, and of `val/`.

        Raises:
            ArtifactError: With some of them.
        """
        twice = sorted(set(train).intersection(others))
        if twice and self.whole:
            raise ArtifactError(
                f"{counted(len(twice), 'sample id')} of --data {'is' if len(twice) == 1 else 'are'} in "
                f"several of its splits ({', '.join(twice[:NAMED])}), and --teacher-data {self.spec} has no "
                "splits",
                hint="Put its images into train/ and test/, as those of --data are",
            )


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Images of a parallel data set, aligned with those of a split.

    Attributes:
        images: Row by row, with the ids, keys and labels of the split; a row that has no counterpart holds
            any image. None where there is no such split.
        missing: bool (N,): rows without a counterpart.
        fingerprint: blake2b of the ids and contents; `UNREAD` in a dry run that did not read them.
    """

    images: Images | None
    missing: Tensor
    fingerprint: str

    def present(self, split: Images) -> Images:
        """The counterparts that there are: those of some rows of the split, or of none."""
        rows = (~self.missing).nonzero()[:, 0]
        return split.take(rows) if self.images is None else self.images.take(rows)


def _aligned(pool: Images, index_N: Tensor, images: Images) -> Images:
    """Images by row, -1 for any, with ids and labels of others."""
    if not torch.equal(index_N, torch.arange(len(pool.sample_ids))):
        pool = pool.take(index_N.clamp(min=0))
    return replace(
        pool,
        label_N=images.label_N,
        key_N=images.key_N,
        sample_ids=images.sample_ids,
        label_NK=images.label_NK,
    )
