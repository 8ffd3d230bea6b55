"""Opens sources of images: digits, class folders, archives, CSV lists, torchvision's datasets."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from distill_cli.data.archives import open_files
from distill_cli.data.class_folders import class_folders
from distill_cli.data.copies import contents_of
from distill_cli.data.csv_source import is_listing, listed_splits
from distill_cli.data.listing import is_archive
from distill_cli.data.source import ItemSource, Source, Splits, digest
from distill_cli.data.splits import TEST_FRACTION, TEST_SEED, stratified
from distill_cli.errors import ArtifactError, UsageError, nearest, reason
from distill_cli.types import DataVersion, SplitBy

ALIASES = {
    "mnist": "torch/MNIST",
    "fashion-mnist": "torch/FashionMNIST",
    "cifar10": "torch/CIFAR10",
    "cifar100": "torch/CIFAR100",
}
S = TypeVar("S", bound=Source)


def by_id(indices: Sequence[int]) -> tuple[int, ...]:
    """Indices in the byte order of `index:N`."""
    return tuple(sorted(indices, key=str))


def open_splits(
    spec: str,
    *,
    glance: bool = False,
    version: DataVersion = "0.4.0",
    split_by: SplitBy = "id",
) -> Splits:
    """The splits `train`, `test` and perhaps `val` of a data spec.

    Args:
        spec: The value of `--data`.
        glance: Write nothing, for a dry run: no dataset of torchvision is fetched, no digest remembered.
        version: The version of distill by whose rules files are images and folders splits.
        split_by: Whether a seeded test split has all images of equal content, or none.

    Raises:
        UsageError: The spec names nothing.
        ArtifactError: The data are unusable, or would have to be downloaded.
    """
    path = Path(spec)
    name = ALIASES.get(spec, spec)
    if spec == "digits":
        return _digits()
    if path.is_dir() or (path.is_file() and is_archive(path)):
        return _class_folders(path, version, split_by, glance)
    if path.is_file() and is_listing(path):
        return listed_splits(path, version, split_by=split_by, glance=glance)
    if path.is_file():
        raise UsageError(f"--data {spec} is neither a folder nor an archive nor a .csv")
    if name.startswith("torch/"):
        return _torchvision(name.removeprefix("torch/"), not glance)
    raise UsageError(f"--data {spec} does not exist. {nearest(spec, ['digits', *ALIASES])}")


def _digits() -> Splits:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, 0…16 stretched to 0…255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    items = [
        (Image.fromarray(image), int(label))
        for image, label in zip(pixels, digits.target, strict=True)
    ]
    names = tuple(str(digit) for digit in range(10))
    everything = ItemSource("digits", items, by_id(range(len(items))), names)
    # No two of them are equal.
    return _with_test(everything, lambda rows: _chosen(everything, rows), "id")


def _chosen(source: ItemSource, rows: Sequence[int]) -> ItemSource:
    order = tuple(source.order[row] for row in rows)
    return ItemSource(source.name, source.items, order, source.class_names)


def _with_test(
    everything: S,
    choose: Callable[[Sequence[int]], S],
    split_by: SplitBy,
    glance: bool = False,
) -> dict[str, S]:
    """Splits a stratified fifth off as test: a function of sample ids, and perhaps of contents."""
    count = len(everything)
    test = stratified(
        [everything.sample_id(row) for row in range(count)],
        [everything.label(row) for row in range(count)],
        TEST_FRACTION,
        TEST_SEED,
        contents=contents_of(everything, glance=glance) if split_by == "content" else None,
    )
    return {
        "train": choose([row for row in range(count) if row not in test]),
        "test": choose([row for row in range(count) if row in test]),
    }


def _class_folders(path: Path, version: DataVersion, split_by: SplitBy, glance: bool) -> Splits:
    splits = class_folders(open_files(path, version), version)
    if "all" not in splits:
        return splits
    everything = splits["all"]
    return _with_test(
        everything,
        lambda rows: replace(everything, rows=tuple(everything.rows[row] for row in rows)),
        split_by,
        glance,
    )


def _plain(name: str) -> str:
    """A dataset's name without case and separators: timm's fashion_mnist is FashionMNIST."""
    return name.lower().replace("_", "").replace("-", "")


def _torchvision(name: str, download: bool) -> Splits:
    """A torchvision dataset, downloaded where it is not on disk.

    The download itself is untested against the live hosts; reading is tested on made files.
    """
    import torchvision.datasets as zoo

    known = {_plain(known): known for known in zoo.__all__}
    if _plain(name) not in known:
        raise UsageError(f"torchvision has no dataset '{name}'. {nearest(name, zoo.__all__)}")
    name = known[_plain(name)]
    root = os.environ.get("DISTILL_DATA") or str(Path.home() / ".cache/distill/torchvision")
    splits = {}
    for split in ("train", "test"):
        data = _load(getattr(zoo, name), root, split, download)
        names = tuple(str(c) for c in getattr(data, "classes", ()))
        count = len(data)
        if not names:
            names = tuple(str(c) for c in range(1 + max(int(data[i][1]) for i in range(count))))
        order = by_id(range(count))
        splits[split] = ItemSource(f"torch/{name} {split}", data, order, names, _content(data))
    return splits


def _content(dataset: Any) -> str | None:
    """A digest of the arrays that hold torchvision's small datasets; None for other datasets."""
    pixels, targets = getattr(dataset, "data", None), getattr(dataset, "targets", None)
    if not hasattr(pixels, "shape") or targets is None:
        return None
    labels = [int(label) for label in targets]
    return digest(np.ascontiguousarray(pixels).data.tobytes() + str(labels).encode()).hex()


def _load(dataset: Any, root: str, split: str, download: bool) -> Any:
    """Loads a dataset from disk, else downloads it; by `train=` or `split=`, whichever it has."""
    parameters = inspect.signature(dataset).parameters
    if "download" not in parameters or not parameters.keys() & {"train", "split"}:
        raise UsageError(f"torch/{dataset.__name__} has no train and test split to classify")
    which = {"train": split == "train"} if "train" in parameters else {"split": split}
    try:
        try:
            return dataset(root=root, download=False, **which)
        except (OSError, RuntimeError):  # how the datasets say that it is not on disk
            if not download:
                raise ArtifactError(
                    f"torch/{dataset.__name__} is not on disk, and a dry run downloads nothing",
                    hint=f"Leave --dry-run out to have it fetched, or put its files below {root}",
                ) from None
            return dataset(root=root, download=True, **which)
    except ArtifactError:
        raise
    # Datasets raise any exception: for the network, for damaged files, for a missing library.
    except Exception as error:
        raise ArtifactError(
            f"torch/{dataset.__name__} cannot be read from disk nor downloaded: {reason(error)}",
            hint=f"Put its files below {root}",
        ) from None
