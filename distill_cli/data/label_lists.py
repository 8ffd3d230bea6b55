"""Lists of samples that a person or a command made: which are left out, and which label some have.

Shapes: N rows of train, P images that the split holds out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_classes import class_of
from distill_cli.data.label_files import Named
from distill_cli.data.label_noise import Labels
from distill_cli.data.label_rules import LabelRules
from distill_cli.errors import ArtifactError, nearest
from distill_cli.types import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The lists of a run's rules, as rows.

    Attributes:
        out_N: bool, rows of train that are left out, whichever side of the split they are on.
        out_P: bool, held-out images that are, likewise.
        label: The classes that the list of labels says, −1 where it says none.
        learnt_N: bool, rows of train that are learnt from if they have no label.
        of_test: Rows of either list that are of test images, which stay as they are.
    """

    out_N: Tensor
    out_P: Tensor
    label: Labels
    learnt_N: Tensor
    of_test: int

    def over(self, labels: Labels) -> Labels:
        """These labels, and over them those of the list."""
        return Labels(
            train_N=torch.where(
                self.label.train_N == UNLABELLED, labels.train_N, self.label.train_N
            ),
            val_P=torch.where(self.label.val_P == UNLABELLED, labels.val_P, self.label.val_P),
        )


def lists_of(dataset: Dataset, held_rows: Tensor, rules: LabelRules) -> Lists:
    """The rules' lists as rows of a dataset.

    Args:
        dataset: As it lies on disk, split.
        held_rows: Rows of train that the split holds out, in the order of `val`; none where val is a
            split of its own.
        rules: With the lists.

    Raises:
        ArtifactError: A list names a sample or a class that there is not.
    """
    train, val = dataset.train, dataset.val
    out_N = torch.zeros(len(train.label_N), dtype=torch.bool)
    out_P = torch.zeros(len(val.label_N), dtype=torch.bool)
    train_N, val_P = (
        torch.full_like(train.label_N, UNLABELLED),
        torch.full_like(val.label_N, UNLABELLED),
    )
    own_val = not len(held_rows)
    learnt_N = torch.full_like(out_N, rules.unlabelled is None)
    of_test = 0
    if rules.without or rules.relabel or rules.unlabelled:
        samples = _Samples(dataset, own_val)
        for name in rules.without:
            in_val, row = samples.row_of(name, "--without")
            if row is None:
                of_test += 1
            else:
                (out_P if in_val else out_N)[row] = True
        for name in rules.unlabelled or ():
            in_val, row = samples.row_of(name, "--unlabelled-list")
            if row is None:
                of_test += 1
            elif not in_val:
                learnt_N[row] = True
        for name, text in rules.relabel:
            if not text.strip() and text not in dataset.class_names:
                continue
            in_val, row = samples.row_of(name, "--relabel")
            label = _class(text, dataset.class_names)
            if row is None:
                of_test += 1
                continue
            said = val_P if in_val else train_N
            if int(said[row]) not in (UNLABELLED, label):
                raise ArtifactError(
                    f"--relabel: sample '{name[1]:.80}' is {dataset.class_names[int(said[row])]:.80} further up"
                )
            said[row] = label
    if not own_val:
        out_P, val_P = out_N[held_rows], train_N[held_rows]
    return Lists(
        out_N=out_N,
        out_P=out_P,
        label=Labels(train_N=train_N, val_P=val_P),
        learnt_N=learnt_N,
        of_test=of_test,
    )


class _Samples:
    """The samples of a dataset by id."""

    def __init__(self, dataset: Dataset, own_val: bool) -> None:
        self.spec, self.own_val = dataset.spec, own_val
        self.train = {name: row for row, name in enumerate(dataset.train.sample_ids)}
        # The ids of a val split of its own may be those of train.
        ids = dataset.val.sample_ids if own_val else ()
        self.val = {name: row for row, name in enumerate(ids)}

    def row_of(self, name: Named, option: str) -> tuple[bool, int | None]:
        """Whether a sample is of a val split of its own, and its row there or in train; None of test.

        Raises:
            ArtifactError: There is no such sample.
        """
        split, sample_id = name
        if split == "test":
            return False, None
        in_val = self.own_val and split == "val"
        row = (self.val if in_val else self.train).get(sample_id)
        if row is None:
            kind = "held-out" if in_val else "training"
            raise ArtifactError(
                f"{option}: {self.spec} has no {kind} image '{sample_id:.80}'",
                hint="Samples are named as class/file, index:N, or unlabelled/… of --unlabelled",
            )
        return in_val, row


def _class(text: str, names: tuple[str, ...]) -> int:
    label = class_of(text, names)
    if label is None:
        raise ArtifactError(f"--relabel: there is no class '{text:.80}'. {nearest(text, names)}")
    return label
