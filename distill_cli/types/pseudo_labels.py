"""The format of pseudo-labels.jsonl: the labels that an epoch made up, and how many of them were right.

The one file of a run that tells of labels which are known and were hidden from it. Written after each
epoch, read by reports: both sides go through `PseudoLabelCounts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill_cli.types.relation import checked_text

PSEUDO_LABELS = "pseudo-labels.jsonl"


@dataclass(frozen=True, kw_only=True)
class PseudoLabelCounts:
    """Samples without a label that an epoch showed; one shown twice counts twice.

    Attributes:
        epoch: From 1.
        seen: All of them.
        accepted: Those that learnt from a label that was made up.
        known: The accepted whose true label is known.
        right: The known whose made-up label is the true one.
        classes: The accepted by that label, in the order of classes.
    """

    epoch: int
    seen: int
    accepted: int
    known: int
    right: int
    classes: Mapping[str, int]

    @property
    def accuracy(self) -> float | None:
        """Share of right ones among the known; None where none is known."""
        return self.right / self.known if self.known else None

    def to_json(self) -> dict[str, Any]:
        """A line of the file."""
        return {
            "epoch": self.epoch,
            "seen": self.seen,
            "accepted": self.accepted,
            "known": self.known,
            "right": self.right if self.known else None,
            "accuracy": self.accuracy,
            "classes": dict(self.classes),
        }

    @classmethod
    def from_json(cls, line: Any) -> PseudoLabelCounts:
        """The inverse.

        Raises:
            ValueError: The line is malformed; with the reason.
        """
        counts = ("epoch", "seen", "accepted", "known")
        if not isinstance(line, dict) or line.keys() != {*counts, "right", "accuracy", "classes"}:
            raise ValueError("an epoch of pseudo-labels has other keys")
        classes, right = line["classes"], line["right"]
        if not isinstance(classes, dict):
            raise ValueError("classes are counts by name")
        numbers = [*(line[key] for key in counts), *classes.values(), 0 if right is None else right]
        if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
            raise ValueError("pseudo-labels are counted from 0 on")
        return cls(
            **{key: line[key] for key in counts},
            right=right or 0,
            classes={checked_text(name): count for name, count in classes.items()},
        )
