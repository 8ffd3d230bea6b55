"""Labels that a network makes for images without one: which of them are learnt from, and how right they are.

Shapes: U images without a label, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_files import ROUND, Named
from distill_cli.data.split_images import labelled
from distill_cli.errors import counted
from distill_cli.files import csv_text
from distill_cli.report.format import exactly, share_below
from distill_cli.report.rounds import Round
from distill_cli.types import UNLABELLED


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A network's answers to the images of a training that have no label.

    Attributes:
        dataset: The data, as they are known without these answers.
        rows: int64 (U,) rows of train.
        confidence_U: Probability of the likeliest class.
        class_U: int64, that class.
    """

    dataset: Dataset
    rows: Tensor
    confidence_U: Tensor
    class_U: Tensor

    @classmethod
    def of(cls, dataset: Dataset, logits_UK: Tensor) -> Answers:
        """The answers that these logits are, in the order of `unlabelled_rows`."""
        confidence_U, class_U = logits_UK.double().softmax(dim=1).max(dim=1)
        rows = unlabelled_rows(dataset)
        return cls(dataset=dataset, rows=rows, confidence_U=confidence_U, class_U=class_U)

    def chosen(self, threshold: float, *, balance: bool) -> Tensor:
        """bool (U,): the images that are learnt from.

        Args:
            threshold: Least probability.
            balance: As many of every class, those of the largest probability: as many as the rarest
                class has that has any. (Noisy Student, Xie et al. 2020, shows images of rarer classes
                again instead.)
        """
        above_U = (self.confidence_U >= threshold) & self._is_trained_on()
        if not balance or not bool(above_U.any()):
            return above_U
        counts_K = torch.bincount(self.class_U[above_U])
        most = int(counts_K[counts_K > 0].min())
        kept_U = torch.zeros_like(above_U)
        order_U = self.confidence_U.argsort(descending=True, stable=True)
        for label in range(len(counts_K)):
            of_class = order_U[above_U[order_U] & (self.class_U[order_U] == label)]
            kept_U[of_class[:most]] = True
        return kept_U

    def _is_trained_on(self) -> Tensor:
        """bool (U,): the images whose class is not left out of training."""
        known = self.dataset.labels
        left_out = () if known is None else known.left_out
        classes = [self.dataset.class_names.index(name) for name in left_out]
        return ~torch.isin(self.class_U, torch.tensor(classes, dtype=torch.int64))

    def round(self, number: int, run: str, threshold: float, kept_U: Tensor) -> Round:
        """The row of the round that learns from those that are kept."""
        names = self.dataset.class_names
        counts = torch.bincount(self.class_U[kept_U], minlength=len(names)).tolist()
        truth_U = self._truth()
        known_U = kept_U & (truth_U != UNLABELLED)
        known, right = int(known_U.sum()), int((known_U & (truth_U == self.class_U)).sum())
        return Round(
            round=number,
            run=run,
            labelled=labelled_count(self.dataset),
            unlabelled=len(self.rows),
            of_test=self._of_test(),
            above=int((self.confidence_U >= threshold).sum()),
            chosen=int(kept_U.sum()),
            confidence=float(self.confidence_U.max()),
            classes=dict(zip(names, counts, strict=True)),
            evenness=evenness(counts),
            known=known,
            accuracy=right / known if known else None,
        )

    def _truth(self) -> Tensor:
        """int64 (U,): the true classes as far as the data tell, for the report of how right labels are."""
        truth_U = self.dataset.hidden_N[self.rows]
        if not self.dataset.transductive:
            return truth_U
        of_test = self.rows - self.dataset.identity.samples
        label_U = self.dataset.test.label_N[of_test.clamp(min=0)]
        return torch.where(of_test >= 0, label_U, truth_U)

    def _of_test(self) -> int | None:
        """How many of the images are of test."""
        beside = int((self.rows >= self.dataset.identity.samples).sum())
        return beside if self.dataset.transductive else None

    def unsure(self, number: int, threshold: float) -> str:
        """A line about a round's answers, of which none is chosen at a threshold."""
        most_U = self.confidence_U[self._is_trained_on()]
        most, middle = float(most_U.max()), float(self.confidence_U.median())
        return (
            f"round {number} is sure of none of {counted(len(self.rows), 'image')} without a label: at "
            f"--threshold {exactly(threshold)} none is chosen; the largest probability of a class is "
            f"{share_below(most, threshold)}, the median {share_below(middle, threshold)}"
        )

    def listed(self, listed_U: Tensor, given: Mapping[tuple[Named, str], str]) -> str:
        """A list that a training reads, as CSV.

        Args:
            listed_U: bool, the images that are in it.
            given: Labels of a list that was given, which it stands for, each with the probability that it has
                there: empty where a person said it.
        """
        rows = [ROUND, *((*named, label, share) for (named, label), share in given.items())]
        for place in listed_U.nonzero()[:, 0].tolist():
            name = self.dataset.train.sample_ids[int(self.rows[place])]
            label = self.dataset.class_names[int(self.class_U[place])]
            rows.append(("train", name, label, f"{float(self.confidence_U[place]):.6f}"))
        return csv_text(rows)


def unlabelled_rows(dataset: Dataset) -> Tensor:
    """int64 rows to train on that have no label."""
    return dataset.fit_rows[~labelled(dataset.train)[dataset.fit_rows]]


def labelled_count(dataset: Dataset) -> int:
    """Images to train on that have a label."""
    return len(dataset.fit_rows) - len(unlabelled_rows(dataset))


def evenness(counts: Sequence[int]) -> float:
    """Entropy of the shares of classes over that of equal ones."""
    shares = [count / sum(counts) for count in counts if count]
    entropy = -sum(share * math.log(share) for share in shares)
    return entropy / math.log(len(counts)) if len(counts) > 1 else 0.0


def in_words(row: Round, threshold: float) -> str:
    """What a round goes on from, in a line."""
    classes, unlabelled, above = row.classes or {}, row.unlabelled or 0, row.above or 0
    right = ""
    of_test = "" if row.of_test is None else f", {row.of_test:,} of them of test"
    if row.accuracy is not None:
        right = f"; {100 * row.accuracy:.2f} % of {row.known:,} right, by labels that nothing learns from"
    return (
        f"round {row.round - 1} labels {counted(unlabelled, 'image')}{of_test}: {above:,} "
        f"({100 * above / unlabelled:.1f} %) at a probability of {exactly(threshold)} or more, {row.chosen:,} chosen, "
        f"{min(classes.values()):,} to {max(classes.values()):,} of a class{right}"
    )
