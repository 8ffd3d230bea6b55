"""Stratified splits as functions of sample ids, independent of file order and machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from distill_cli.counters import Purpose, draw, sample_key

# The share of a dataset without test/ that becomes its test split, and the seed of the draw: both
# fixed, so that the split is the same for everyone.
TEST_FRACTION, TEST_SEED = 0.2, 0


def stratified(
    sample_ids: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    seed: int,
    *,
    again: bool = False,
) -> set[int]:
    """Rows that are held out: those of each class whose ids hash lowest.

    Adding a sample moves at most one other across the border of its class.

    Args:
        sample_ids: Id of each row.
        labels: Class of each row.
        fraction: Share of each class, in (0, 1); at least one row and never all of them.
        seed: Seed of the split.
        again: Draw from another stream, so that the rows which an earlier draw of this seed left
            over are no likelier than others.
    """
    keys = torch.tensor([sample_key(name) for name in sample_ids], dtype=torch.int64)
    stream = (1,) if again else ()
    ranks = draw(seed, Purpose.SPLIT, *stream, keys).tolist()
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        members[label].append(row)
    held: set[int] = set()
    for rows in members.values():
        count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        held.update(sorted(rows, key=lambda row: (ranks[row], sample_ids[row]))[:count])
    return held
