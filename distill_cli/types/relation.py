"""The format of relations.json: which classes the objectives of a run hold to be alike.

Written when a run ends, read by reports: both sides go through `Relation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

RELATIONS = "relations.json"
# Classes of a matrix that is kept and drawn: a picture of many more would take minutes.
MOST_CLASSES = 32


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Classes that one objective holds to be alike.

    Attributes:
        class_names: The classes of the data; where they are many, those of the likest pairs.
        share: Row y: the share of the label of class y, or of its residual, on each class.
        pairs: (class, other class, mean share on each other), the largest first.
    """

    class_names: Sequence[str]
    share: Sequence[Sequence[float]]
    pairs: Sequence[tuple[str, str, float]]

    def to_json(self) -> dict[str, Any]:
        """The entry of one objective in relations.json."""
        return {
            "class_names": list(self.class_names),
            "share": [list(row) for row in self.share],
            "pairs": [list(pair) for pair in self.pairs],
        }

    @classmethod
    def from_json(cls, entry: Any) -> Relation:
        """The inverse.

        Raises:
            ValueError: The entry is malformed; with the reason.
        """
        keys = {field.name for field in fields(cls)}
        if not isinstance(entry, dict) or entry.keys() != keys:
            raise ValueError(f"an objective has {', '.join(sorted(keys))}")
        names, share, pairs = entry["class_names"], entry["share"], entry["pairs"]
        if not all(isinstance(value, list) for value in (names, share, pairs)):
            raise ValueError("class_names, share and pairs are lists")
        if len(names) > MOST_CLASSES or len(share) != len(names):
            raise ValueError(f"share has a row for each of {MOST_CLASSES} classes at most")
        for row in share:
            if not isinstance(row, list) or len(row) != len(names) or not all(map(_is_share, row)):
                raise ValueError("a row of share is a number from 0 on for each class")
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 3 or not _is_share(pair[2]):
                raise ValueError("a pair is two classes and a number from 0 on")
        return cls(
            class_names=[checked_text(name) for name in names],
            share=share,
            pairs=[(checked_text(a), checked_text(b), likeness) for a, b, likeness in pairs],
        )


def checked_text(value: Any) -> str:
    """A text that a page can hold: not half of a surrogate pair, which JSON allows.

    Raises:
        ValueError: The value is none.
    """
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{value!r} is no text")
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return is_number(value) and value >= 0
