"""Reads the images of a data spec: decoded into tables, or listed as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from distill_cli.data.decode import Decoded, SizesDifferError, check_memory, decode
from distill_cli.data.disk_cache import archive_stamp, key_of, recall, remember, stamp_of
from distill_cli.data.file_index import Listed, list_files
from distill_cli.data.formats import check_decoders
from distill_cli.data.inventory import Left, of_kind
from distill_cli.data.listing import is_archive
from distill_cli.data.open_splits import open_splits
from distill_cli.data.parallel import Parallel, open_parallel
from distill_cli.data.pillow_io import BAD_IMAGE, Size, sides
from distill_cli.data.rules import DataRules
from distill_cli.data.source import WHOLE, FileSource, Source, Splits
from distill_cli.data.split_images import ImageFiles, Images, ImageTable
from distill_cli.data.unlabelled import open_unlabelled
from distill_cli.types import Count, Framing

Split = TypeVar("Split", ImageTable, ImageFiles)

# Views up to this side are decoded once: resizing costs little quality, and memory suffices.
TABLE_SIDE = 128


def read_images(
    spec: str,
    size: Size | None,
    skip_bad: bool,
    framing: Framing,
    workers: int,
    progress: Count,
    glance: bool,
    rules: DataRules,
) -> Decoded | Listed:
    """The images of all splits, as tables where views are small, else as files.

    The arguments are those of `open_dataset`.

    Raises:
        UsageError: The spec names nothing.
        ArtifactError: The data are unusable.
    """
    opening = partial(
        open_splits, spec, glance=glance, version=rules.version, split_by=rules.split_by
    )
    options: dict[str, Any] = {"size": size, "skip_bad": skip_bad}
    options |= {"framing": framing, "rules": rules}
    return _read(spec, opening, options, workers, progress, glance)


def read_unlabelled(
    spec: str,
    size: tuple[int, int, int],
    skip_bad: bool,
    framing: Framing,
    workers: int,
    progress: Count,
    glance: bool,
    rules: DataRules,
) -> Decoded | Listed:
    """The images of `--unlabelled` as one split `train`.

    The arguments are those of `open_dataset`, and the channels, height and width of the views.

    Raises:
        UsageError: The spec names nothing.
        ArtifactError: The images are unusable.
    """
    channels, *sides_of_view = size
    options: dict[str, Any] = {"size": tuple(sides_of_view), "skip_bad": skip_bad}
    options |= {
        "framing": framing,
        "rules": DataRules(channels=channels, megapixels=rules.megapixels),
    }
    opening = partial(open_unlabelled, spec, glance=glance)
    return _read(spec, opening, options, workers, progress, glance, mark="unlabelled ")


def read_parallel(
    spec: str,
    size: Size | None,
    skip_bad: bool,
    framing: Framing,
    workers: int,
    progress: Count,
    glance: bool,
    rules: DataRules,
) -> Parallel:
    """The images of `--teacher-data`; the arguments are those of `open_dataset`.

    Raises:
        UsageError: The spec names nothing.
        ArtifactError: The images are unusable.
    """
    options: dict[str, Any] = {"size": size, "skip_bad": skip_bad}
    options |= {"framing": framing, "rules": rules}
    opening = partial(open_parallel, spec, glance=glance)
    read = _read(spec, opening, options, workers, progress, glance, mark="parallel ")
    splits: Mapping[str, Images] = read.tables if isinstance(read, Decoded) else read.files
    whole = read.class_names == WHOLE
    return Parallel(spec=spec, splits=splits, whole=whole, digests=read.digests)


def _read(
    spec: str,
    opening: Callable[[], Splits],
    options: dict[str, Any],
    workers: int,
    progress: Count,
    glance: bool,
    mark: str = "",
) -> Decoded | Listed:
    """The images of splits, remembered ones where they are.

    Args:
        spec: The source.
        opening: Opens its splits.
        options: How they are read.
        workers: Processes that read images which are not held in memory.
        progress: Called with (images read, images in all).
        glance: Read for a dry run.
        mark: A text before the stamp of what is remembered, where other images of the source are meant
            than its splits.
    """
    path, skip_bad = Path(spec), options["skip_bad"]
    if path.is_file() and is_archive(path):
        # Looked up before it is opened: listing a compressed archive takes as long as reading it.
        known = _recalled(_marked(mark, archive_stamp(path)), options, glance)
        if known is not None:
            return known
    splits = opening()
    rules: DataRules = options["rules"]
    splits = {split: _limited(source, rules.megapixels) for split, source in splits.items()}
    if not skip_bad:
        check_decoders(_names(splits))
    read = _read_from(spec, splits, options, workers, progress, glance, mark)
    # An entry of a folder is good as long as its images are: what lies beside them is as it is now.
    left = tuple(sorted((*of_kind(read.left, "unreadable"), *_left(splits))))
    if isinstance(read, Decoded):
        return replace(read, tables=_with_labels(read.tables, splits), left=left)
    return replace(read, files=_with_labels(read.files, splits), left=left)


def _recalled(stamp: str | None, options: dict[str, Any], glance: bool) -> Decoded | None:
    """The remembered images; also those whose channels were decided, where they are as many."""
    rules: DataRules = options["rules"]
    for asked in dict.fromkeys((replace(rules, channels=None), rules)):
        key = key_of(stamp, **{**options, "rules": asked})
        known = None if key is None else recall(key, glance=glance)
        if known is not None and rules.channels in (None, known.tables["train"].size[0]):
            return known
    return None


def _marked(mark: str, stamp: str | None) -> str | None:
    return None if stamp is None else mark + stamp


def _limited(source: Source, megapixels: int) -> Source:
    """The source, of which larger pictures are refused; those of torchvision's datasets are as they are."""
    return replace(source, megapixels=megapixels) if isinstance(source, FileSource) else source


def _names(splits: Splits) -> Iterator[str]:
    """The paths of image files, where they are files."""
    for source in splits.values():
        if isinstance(source, FileSource):
            yield from map(source.where, range(len(source)))


def _left(splits: Splits) -> tuple[Left, ...]:
    """What the listing of files left out."""
    source = splits["train"]
    return source.files.left if isinstance(source, FileSource) else ()


def _read_from(
    spec: str,
    splits: Splits,
    options: dict[str, Any],
    workers: int,
    progress: Count,
    glance: bool,
    mark: str,
) -> Decoded | Listed:
    """The images decoded or listed, without multi-label targets."""
    size = options["size"]
    side = _first_side(splits["train"]) if size is None else max(sides(size))
    small = side <= TABLE_SIDE
    if small:
        stamp = _marked(mark, stamp_of(splits))
        key = key_of(stamp, **options)
        if (known := _recalled(stamp, options, glance)) is not None:
            return known
    if small and glance:
        for source in splits.values():
            check_memory(splits, source, options["size"])
    elif small:
        try:
            decoded = decode(splits, **options, progress=progress)
        except SizesDifferError:
            pass
        else:
            decoded = replace(decoded, left=(*decoded.left, *_left(splits)))
            return decoded if key is None else remember(key, decoded)
    listed = list_files(spec, splits, **options, workers=workers, progress=progress, glance=glance)
    # Images of several sizes are files whatever these are, unless a size was asked for.
    return (
        listed.as_tables()
        if glance and max(listed.files["train"].size[1:]) <= TABLE_SIDE
        else listed
    )


def _with_labels(read: Mapping[str, Split], splits: Splits) -> dict[str, Split]:
    """The images with their multi-label targets, which remembered tables lack."""
    return {
        split: replace(images, label_NK=_labels(images, splits[split]))
        for split, images in read.items()
    }


def _labels(images: Images, source: Source) -> Tensor | None:
    """Multi-label targets, int8 (N, K); None where one class applies."""
    if not source.multi_label:
        return None
    sets = {source.sample_id(row): source.labels(row) for row in range(len(source))}
    label_NK = torch.zeros(len(images.sample_ids), len(source.class_names), dtype=torch.int8)
    for row, name in enumerate(images.sample_ids):
        label_NK[row, list(sets[name])] = 1
    return label_NK


def _first_side(source: Source) -> int:
    """The longer side of the first image that can be opened."""
    for row in range(len(source)):
        try:
            return max(source.image(row).size)
        except BAD_IMAGE:
            continue
    return 0
