"""The rules of what a run may know of labels, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distill_cli.data.label_files import Corrections, Hierarchy, Omitted, Relabelling
from distill_cli.data.source import UNLABELLED_PREFIX


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise by chance.

    Attributes:
        kind: sym: any other class, all alike; pair: the next class.
        rate: Share of the labels of each class that are changed, in (0, 1).
    """

    kind: Literal["sym", "pair"]
    rate: float


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """Rules for the labels that a run may know, and for the images that it learns from.

    Attributes:
        fraction: Share of the labels that are known, in (0, 1]; None for all.
        per_class: Labels of each class that are known; None for all.
        noise: How labels are changed: by chance, or as a file has them.
        coarse: Groups of classes, which labels name in place of a class; empty for fine labels.
        omit: Classes that are not trained on, by name or number.
        only: The only classes that are, where there are any.
        limit: Images to train on; None for all.
        fold: A fold of them that is left out, from 1, and how many folds there are; None for none.
        without: Samples that are neither trained on nor held out.
        relabel: Samples with the class that each is known to be of.
        unlabelled: Of the samples without a label, the only ones that are learnt from; None for all.
        seed: Seed of all draws.
        val_fraction: Share of the known labels that are held out.
    """

    fraction: float | None = None
    per_class: int | None = None
    noise: Noise | Relabelling | None = None
    coarse: Hierarchy = ()
    omit: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    limit: int | None = None
    fold: tuple[int, int] | None = None
    without: Omitted = ()
    relabel: Corrections = ()
    unlabelled: Omitted | None = None
    seed: int = 0
    val_fraction: float = 0.1

    def of_data(self, sample_ids: Sequence[str]) -> LabelRules:
        """The same without the rows of lists that name images beside the data, which have these samples."""
        # A class may be called as the images beside them are.
        known = set(sample_ids)

        def is_there(sample_id: str) -> bool:
            return not sample_id.startswith(UNLABELLED_PREFIX) or sample_id in known

        return replace(
            self,
            without=tuple(name for name in self.without if is_there(name[1])),
            relabel=tuple(pair for pair in self.relabel if is_there(pair[0][1])),
            unlabelled=self.unlabelled
            and tuple(name for name in self.unlabelled if is_there(name[1])),
        )

    @property
    def hides(self) -> bool:
        """Whether some labels are hidden."""
        return self.fraction is not None or self.per_class is not None

    @property
    def lists(self) -> bool:
        """Whether lists name samples, perhaps of a source beside the data."""
        return bool(self.without or self.relabel or self.unlabelled is not None)

    @property
    def changes(self) -> bool:
        """Whether a run knows anything else than what lies on disk."""
        return self != LabelRules(seed=self.seed, val_fraction=self.val_fraction)


def in_words(noise: Noise | Relabelling | None) -> str:
    """The noise as a person reads it; empty where there is none."""
    if noise is None:
        return ""
    if not isinstance(noise, Noise):
        return "labels of a file"
    kind = {"sym": "symmetric", "pair": "pairwise"}[noise.kind]
    return f"{100 * noise.rate:g} % {kind} noise"
