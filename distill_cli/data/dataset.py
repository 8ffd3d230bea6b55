"""A dataset ready to train on: decoded splits, held-out rows, identity, statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from distill_cli.data.copies import Copies
from distill_cli.data.decode import Decoded
from distill_cli.data.file_index import Listed
from distill_cli.data.fingerprint import fingerprint_of
from distill_cli.data.held_out import check_fraction, held_out, some_rows
from distill_cli.data.inventory import Left
from distill_cli.data.known_labels import KnownLabels
from distill_cli.data.left_copies import copies_between, without_copies
from distill_cli.data.pillow_io import Size
from distill_cli.data.reading import read_images, read_unlabelled
from distill_cli.data.rules import TODAY, DataRules
from distill_cli.data.split_images import ImageFiles, Images
from distill_cli.data.statistics import channel_statistics
from distill_cli.data.unlabelled import Unlabelled, beside, of_test
from distill_cli.errors import ArtifactError
from distill_cli.types import (
    EARLIER_FRAMING,
    UNLABELLED,
    UNREAD,
    Count,
    DatasetIdentity,
    Framing,
    PlainView,
    digest_of_ids,
)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data of a training, a cache or an evaluation.

    Attributes:
        spec: The value of `--data`.
        class_names: Names of the classes in label order.
        train: The whole train split, the held-out part included, and behind it any images of
            `unlabelled`.
        fit_rows: int64 rows of `train` to train on.
        val: The images that choose the epoch: held-out rows, or the `val/` split.
        test: The test split, to be looked at once.
        identity: Fingerprint and split, which must agree with other artefacts.
        skipped: Number of images that could not be read and were left out.
        test_fingerprint: The ids, labels and contents of test, hashed; `UNREAD` in a dry run that did
            not read them all.
        left: Everything beside the images that are used, with its reason, sorted by path.
        grey: How many training images are grey, and of how many that were looked at.
        sizes_differ: Whether images that are read from files are of several sizes.
        copies: Numbers of images that occur again; None in a dry run that did not read them all.
        mean: Mean of each channel over the fit rows, in [0, 1].
        std: Standard deviation of each channel over the fit rows, in [0, 1].
        constant: The channels in which all pixels of the fit rows are equal.
        framing: How the pictures in files became images of a view's size.
        rules: Rules by which files became images, splits and channels.
        unlabelled: The value of `--unlabelled`; empty without.
        transductive: Whether the images without labels are those of test.
        hidden_N: int64 true class of each row of `train` whose label a run may not know, else −1; read
            by nobody but whoever reports, once training is over, how right pseudo-labels were.
        group_K: int64 group of each class, from 0, where labels are coarse: they then name the first
            class of a group; None where they are fine.
        labels: What a run knows of the labels; None where it knows them as they lie on disk.
        mixed_rows: int64 rows that views mix in pairs, as a cache did; None for the rows to train on.
    """

    spec: str
    class_names: tuple[str, ...]
    train: Images
    fit_rows: Tensor
    val: Images
    test: Images
    identity: DatasetIdentity
    skipped: int
    test_fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    left: tuple[Left, ...] = ()
    grey: tuple[int, int] = (0, 0)
    sizes_differ: bool = False
    copies: Copies | None = None
    constant: tuple[int, ...] = ()
    framing: Framing = EARLIER_FRAMING
    rules: DataRules = TODAY
    unlabelled: str = ""
    transductive: bool = False
    hidden_N: Tensor = field(
        default_factory=lambda: torch.empty(0, dtype=torch.int64), compare=False
    )
    group_K: Tensor | None = None
    labels: KnownLabels | None = None
    mixed_rows: Tensor | None = None

    @property
    def plain_view(self) -> PlainView:
        """The image of a file where nothing is augmented."""
        return PlainView(
            channels=self.channels, height=self.height, width=self.width, framing=self.framing
        )

    @property
    def channels(self) -> int:
        """Channels of a view, 1 or 3."""
        return self.train.size[0]

    @property
    def height(self) -> int:
        """Height of a view in pixels."""
        return self.train.size[1]

    @property
    def width(self) -> int:
        """Width of a view in pixels."""
        return self.train.size[2]

    @property
    def multi_label(self) -> bool:
        """Whether several labels may apply to an image."""
        return self.train.label_NK is not None

    @property
    def from_files(self) -> bool:
        """Whether images are read when they are asked for, rather than held in memory."""
        return isinstance(self.train, ImageFiles)


def open_dataset(
    spec: str,
    *,
    split_seed: int = 0,
    val_fraction: float = 0.1,
    size: Size | None = None,
    skip_bad: bool = False,
    framing: Framing = EARLIER_FRAMING,
    workers: int = 0,
    progress: Count = lambda done, total: None,
    glance: bool = False,
    rules: DataRules = TODAY,
    unlabelled: str | None = None,
    transductive: bool = False,
    known: Callable[[Dataset], Dataset] = lambda dataset: dataset,
) -> Dataset:
    """Opens and splits a dataset.

    Views of up to 128 pixels are decoded once and held in memory; larger ones are read from their
    files each time. The rule looks at the data alone, so that views are the same on any machine.
    A glance, for a dry run, decodes no image and writes nothing: mean and sd stay 0 and 1, a table
    has no pixels, and the fingerprint is `UNREAD` where there are too many images to open them all.

    Args:
        spec: The value of `--data`.
        split_seed: Seed of the held-out rows.
        val_fraction: Share of train that is held out where there is no `val/`, in (0, 1).
        size: Side of the views in pixels, or height and width.
        skip_bad: Leave out images that cannot be read.
        framing: How the pictures in files become images of that size.
        workers: Processes that read images which are not held in memory.
        progress: Called with (images read, images in all) while they are read.
        glance: Open the data for a dry run.
        rules: Rules by which files become images, splits and channels.
        unlabelled: A source of images without labels, whose rows follow those of train.
        transductive: The images of test, without their labels, do so in its place.

    Raises:
        UsageError: A spec names nothing, or no share is held out though there is no `val/`.
        ArtifactError: The data are unusable.
    """
    how = (skip_bad, framing, workers, progress, glance, rules)
    read = read_images(spec, size, *how)
    splits: Mapping[str, Images] = read.tables if isinstance(read, Decoded) else read.files
    digests, left, skipped = read.digests, read.left, read.skipped
    if rules.dedupe and digests:
        splits, digests, copies = without_copies(splits, digests)
        left = tuple(sorted((*left, *copies)))
    train, names, contents = splits["train"], read.class_names, digests.get("train")
    whole = _identity(train, names, contents, split_seed, sure=not (skip_bad or rules.dedupe))
    val, held, identity = _held_out(spec, splits, whole, val_fraction, contents, rules)
    fit = [row for row in range(len(train.sample_ids)) if row not in held]
    fit_rows, more = torch.tensor(fit, dtype=torch.int64), tuple[bytes, ...]()
    if unlabelled is not None or transductive:
        images = _beside(unlabelled, splits, digests, how)
        identity, more = images.beside(identity), (() if transductive else images.digests or ())
        left, skipped = tuple(sorted((*left, *images.left))), skipped + images.skipped
        fit_rows, train = torch.cat([fit_rows, images.rows_behind(train)]), images.behind(train)
    dataset = Dataset(
        spec=spec,
        class_names=names,
        train=train,
        fit_rows=fit_rows,
        val=val,
        test=splits["test"],
        identity=identity,
        skipped=skipped,
        test_fingerprint=fingerprint_of(splits["test"], digests.get("test")),
        left=left,
        grey=read.grey,
        sizes_differ=isinstance(read, Listed) and read.sizes_differ,
        copies=copies_between(splits, digests, fit, held, more) if digests else None,
        mean=(0.0,) * train.size[0],
        std=(1.0,) * train.size[0],
        framing=framing,
        rules=rules,
        unlabelled=unlabelled or "",
        transductive=transductive,
        hidden_N=torch.full_like(train.label_N, UNLABELLED),
    )
    return known(dataset) if glance else measured(known(dataset))


def _beside(
    unlabelled: str | None,
    splits: Mapping[str, Images],
    digests: Mapping[str, Sequence[bytes]],
    how: tuple[bool, Framing, int, Count, bool, DataRules],
) -> Unlabelled:
    """The images of a source without labels; without one, those of test."""
    if unlabelled is None:
        return of_test(splits["test"], digests.get("test"))
    train = splits["train"]
    return beside(
        unlabelled, read_unlabelled(unlabelled, train.size, *how), train, digests, how[-1]
    )


def measured(dataset: Dataset) -> Dataset:
    """The dataset with the statistics of its training images."""
    mean, std, constant = channel_statistics(dataset.train, dataset.fit_rows)
    return replace(dataset, mean=mean, std=std, constant=constant)


def _held_out(
    spec: str,
    splits: Mapping[str, Images],
    identity: DatasetIdentity,
    fraction: float,
    contents: Sequence[bytes] | None,
    rules: DataRules,
) -> tuple[Images, set[int], DatasetIdentity]:
    """The images that choose the epoch, the rows of train that they are, and the identity of the split.

    Raises:
        UsageError, ArtifactError: None can be held out, or train is unusable.
    """
    check_fraction(fraction, needed="val" not in splits)
    train = splits["train"]
    _check_classes(spec, train, identity.class_names)
    if "val" in splits:
        return splits["val"], set(), replace(identity, dedupe=rules.dedupe)
    held, split_by = held_out(train, fraction, identity.split_seed, contents, rules.split_by)
    val = train.take(torch.tensor(some_rows(spec, held), dtype=torch.int64))
    identity = replace(identity, val_fraction=fraction, split_by=split_by, dedupe=rules.dedupe)
    return val, held, identity


def _identity(
    train: Images,
    names: tuple[str, ...],
    digests: Sequence[bytes] | None,
    split_seed: int,
    *,
    sure: bool,
) -> DatasetIdentity:
    """The identity of a train split, before anything is held out of it.

    Args:
        train: The split.
        names: The classes.
        digests: The contents; None in a dry run that did not read them all.
        split_seed: Seed of what is held out.
        sure: The ids are those of the split even so: neither bad images nor copies are left out.
    """
    return DatasetIdentity(
        fingerprint=fingerprint_of(train, digests),
        ids_digest=UNREAD if digests is None and not sure else digest_of_ids(train.sample_ids),
        samples=len(train.sample_ids),
        class_names=names,
        split_seed=split_seed,
        val_fraction=0.0,
    )


def _check_classes(spec: str, train: Images, names: Sequence[str]) -> None:
    if train.label_NK is not None:
        return
    if len(names) < 2:
        raise ArtifactError(f"{spec} has one class only ('{names[0]}')")
    present = set(train.label_N.tolist())
    if UNLABELLED in present:
        return
    for label, name in enumerate(names):
        if label not in present:
            raise ArtifactError(f"class '{name}' of {spec} has no image to train on")
