"""Stratified splits as functions of sample ids, independent of file order and machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

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
    contents: Sequence[bytes | None] | None = None,
) -> set[int]:
    """Rows that are held out: those of each class whose ids hash lowest.

    Adding a sample moves at most one other across the border of its class. Where contents are given,
    all rows of one content lie on one side, as the lowest of them would alone; where no two are
    equal, the rows are those of the ids.

    Args:
        sample_ids: Id of each row.
        labels: Class of each row.
        fraction: Share of each class, in (0, 1); at least one row and never all of them.
        seed: Seed of the split.
        again: Draw from another stream, so that the rows which an earlier draw of this seed left
            over are no likelier than others.
        contents: Digest of each row's image, None where it is not known; None for the ids alone.
    """
    keys = torch.tensor([sample_key(name) for name in sample_ids], dtype=torch.int64)
    stream = (1,) if again else ()
    ranks = draw(seed, Purpose.SPLIT, *stream, keys).tolist()
    order = sorted(range(len(labels)), key=lambda row: (ranks[row], sample_ids[row]))
    strata: dict[int, list[list[int]]] = defaultdict(list)
    for group in grouped(order, contents):
        strata[labels[group[0]]].append(group)
    held: set[int] = set()
    for groups in strata.values():
        held.update(row for group in _lowest(groups, fraction) for row in group)
    return held if contents is None else _with_some_left(held, labels, contents)


def grouped(rows: Iterable[int], contents: Sequence[bytes | None] | None) -> list[list[int]]:
    """Rows of one content together, groups in the order of their first rows."""
    groups: dict[bytes | int, list[int]] = {}
    for row in rows:
        content = None if contents is None else contents[row]
        groups.setdefault(row if content is None else content, []).append(row)
    return list(groups.values())


def group_of(row: int, contents: Sequence[bytes | None] | None) -> list[int]:
    """The rows of a row's content, itself among them."""
    content = None if contents is None else contents[row]
    if contents is None or content is None:
        return [row]
    return [other for other, known in enumerate(contents) if known == content]


def _lowest(groups: Sequence[list[int]], fraction: float) -> list[list[int]]:
    """The first groups of a class that fit into its share; one of them at least, never all."""
    rows = sum(map(len, groups))
    count = min(max(1, round(rows * fraction)), rows - 1)
    taken: list[list[int]] = []
    for group in groups:
        if len(group) <= count:
            taken.append(group)
            count -= len(group)
    return taken if taken or len(groups) < 2 else [min(groups, key=len)]


def _with_some_left(
    held: set[int], labels: Sequence[int], contents: Sequence[bytes | None]
) -> set[int]:
    """Gives groups back where equal images of several classes took the last row of one of them."""
    left = {label for row, label in enumerate(labels) if row not in held}
    for group in grouped(sorted(held), contents):
        if len(group) > 1 and not left.issuperset(labels[row] for row in group):
            held = held.difference(group)
            left.update(labels[row] for row in group)
    return held
