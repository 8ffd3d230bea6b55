"""A dataset ready to train on: decoded splits, held-out rows, identity, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from distill_cli.data.decode import ImageTable, decode
from distill_cli.data.sources import open_splits
from distill_cli.data.splits import stratified
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import DatasetIdentity


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What training, caching and evaluation need of the data.

    Attributes:
        spec: What `--data` named.
        class_names: In label order.
        train: The whole train split, the held-out part included.
        fit_rows: int64 rows of `train` to train on.
        val: What chooses the epoch: the held-out rows, or the `val/` split.
        test: Looked at once.
        identity: What must agree with other artefacts.
        skipped: Images that could not be read and were left out.
        mean: Of each channel over the fit rows, in [0, 1].
        std: Of each channel over the fit rows, in [0, 1].
    """

    spec: str
    class_names: tuple[str, ...]
    train: ImageTable
    fit_rows: Tensor
    val: ImageTable
    test: ImageTable
    identity: DatasetIdentity
    skipped: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.train.images_NCHW.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.train.images_NCHW.shape[2])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.train.images_NCHW.shape[3])


def open_dataset(
    spec: str,
    *,
    split_seed: int = 0,
    val_fraction: float = 0.1,
    size: int | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Opens, decodes and splits a dataset.

    Args:
        spec: What `--data` names.
        split_seed: Seed of the held-out rows.
        val_fraction: Share of train that is held out where there is no `val/`, in (0, 1).
        size: Side of the views in pixels.
        skip_bad: Leave out images that cannot be read.

    Raises:
        UsageError: The spec names nothing, or no share is held out though there is no `val/`.
        ArtifactError: The data are unusable.
    """
    splits = open_splits(spec)
    if "val" not in splits and not 0 < val_fraction < 1:
        raise UsageError(
            f"val_fraction {val_fraction} is not between 0 and 1",
            hint="The best epoch is chosen on held-out images, and there is no val/",
        )
    decoded = decode(splits, size=size, skip_bad=skip_bad)
    train = decoded.tables["train"]
    names = splits["train"].class_names
    _check_classes(spec, train, names)
    val = decoded.tables.get("val")
    rows = list(range(len(train.sample_ids)))
    fit = rows
    if val is None:
        held = stratified(train.sample_ids, train.label_N.tolist(), val_fraction, split_seed)
        if not held:
            raise ArtifactError(f"{spec} has too few images to hold any out")
        fit = [row for row in rows if row not in held]
        val = _rows(train, sorted(held))
    fit_rows = torch.tensor(fit, dtype=torch.int64)
    mean, std = _statistics(train.images_NCHW, fit_rows)
    return Dataset(
        spec=spec,
        class_names=names,
        train=train,
        fit_rows=fit_rows,
        val=val,
        test=decoded.tables["test"],
        identity=DatasetIdentity(
            fingerprint=_fingerprint(train, decoded.digests),
            ids_digest=_hash("\0".join(train.sample_ids).encode()),
            samples=len(train.sample_ids),
            class_names=names,
            split_seed=split_seed,
            val_fraction=0.0 if "val" in splits else val_fraction,
        ),
        skipped=decoded.skipped,
        mean=mean,
        std=std,
    )


def _check_classes(spec: str, train: ImageTable, names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ArtifactError(f"{spec} has one class only ('{names[0]}')")
    present = set(train.label_N.tolist())
    for label, name in enumerate(names):
        if label not in present:
            raise ArtifactError(f"class '{name}' of {spec} has no image to train on")


def _rows(table: ImageTable, rows: list[int]) -> ImageTable:
    index_N = torch.tensor(rows, dtype=torch.int64)
    return ImageTable(
        images_NCHW=table.images_NCHW[index_N],
        label_N=table.label_N[index_N],
        key_N=table.key_N[index_N],
        sample_ids=tuple(table.sample_ids[row] for row in rows),
    )


def _statistics(images_NCHW: Tensor, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sd of each channel from exact counts of the 256 values."""
    channels = images_NCHW.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for start in range(0, len(rows), 2048):
        part = rows[start : start + 2048]
        for channel in range(channels):
            pixels = images_NCHW[part, channel].flatten().int()
            counts[channel] += torch.bincount(pixels, minlength=256)
    shares = counts / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    variance = (shares * (values[None] - mean[:, None]) ** 2).sum(dim=1)
    # A constant channel has no scale of its own.
    std = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(table: ImageTable, digests: Sequence[bytes]) -> str:
    whole = blake2b(digest_size=16)
    for name, label, content in zip(table.sample_ids, table.label_N.tolist(), digests, strict=True):
        whole.update(f"{name}\0{label}\0".encode() + content)
    return whole.hexdigest()


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
