"""Labels that are changed: wrong by chance, as a file has them, or groups in place of classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_classes import class_of
from distill_cli.data.label_draws import any_other, flipped_by, the_next
from distill_cli.data.label_files import Relabelling
from distill_cli.data.label_rules import LabelRules, Noise
from distill_cli.errors import ArtifactError, counted, nearest
from distill_cli.types import UNLABELLED

# Images that a refusal names, of those in a file that have no label to change.
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of both sides of a split: `train_N`, −1 where unlabelled, and `val_P` likewise."""

    train_N: Tensor
    val_P: Tensor


def noisy(dataset: Dataset, held_rows: Tensor, rules: LabelRules) -> Labels:
    """The labels of both sides with noise; as they lie on disk without any.

    Raises:
        ArtifactError: A file names a sample or a class that there is not, or a sample without a label.
    """
    train, val, noise = dataset.train, dataset.val, rules.noise
    if noise is None:
        return Labels(train_N=train.label_N, val_P=val.label_N)
    if not isinstance(noise, Noise):
        train_N = _as_filed(dataset, noise)
        return Labels(train_N=train_N, val_P=train_N[held_rows] if len(held_rows) else val.label_N)
    classes = len(dataset.class_names)
    other = any_other(classes, rules.seed) if noise.kind == "sym" else the_next(classes)
    flipped = partial(flipped_by, rate=noise.rate, other=other, seed=rules.seed)
    train_N = flipped(train.label_N, train.key_N, [dataset.fit_rows, held_rows])
    if len(held_rows):
        return Labels(train_N=train_N, val_P=train_N[held_rows])
    whole = [torch.arange(len(val.label_N))]
    return Labels(train_N=train_N, val_P=flipped(val.label_N, val.key_N, whole))


def _as_filed(dataset: Dataset, labels: Relabelling) -> Tensor:
    names, train = dataset.class_names, dataset.train
    row_of = {name: row for row, name in enumerate(train.sample_ids)}
    filed_N = train.label_N.clone()
    bare: list[str] = []
    for name, text in labels:
        if name not in row_of:
            raise ArtifactError(
                f"label noise: {dataset.spec} has no training image '{name:.80}'",
                hint="Samples are named as class/file, or index:N",
            )
        label = class_of(text, names)
        if label is None:
            raise ArtifactError(
                f"label noise: sample '{name:.80}': there is no class '{text:.80}'. {nearest(text, names)}"
            )
        row = row_of[name]
        if train.label_N[row] == UNLABELLED:
            bare.append(name)
        filed_N[row] = label
    if bare:
        named = ", ".join(f"'{name:.80}'" for name in bare[:NAMED])
        raise ArtifactError(
            f"label noise: {counted(len(bare), 'row')} for images that have no label: "
            f"{named}{', …' if len(bare) > NAMED else ''}",
            hint="It changes labels and gives none: leave these rows out",
        )
    return filed_N


def as_groups(labels: Labels, group_K: Tensor) -> Labels:
    """Labels that name the first class of a group in place of a class of it."""
    first_K = torch.stack([(group_K == group).nonzero()[0, 0] for group in group_K])

    def coarse(label_N: Tensor) -> Tensor:
        return torch.where(label_N == UNLABELLED, label_N, first_K[label_N.clamp(min=0)])

    return Labels(train_N=coarse(labels.train_N), val_P=coarse(labels.val_P))
